"""The command line: `imagegen up`, `generate`, `status`, `logs`, `doctor`, `prune`, `models`."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compose.cli.client_error import ClientError, errors_as_one_sentence
from compose.cli.logs import PROCESSES, show
from compose.cli.models import models
from shared.access.api_keys import Scope
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

if TYPE_CHECKING:
    from rich.console import Console

    from compose.cli.client import ApiClient

# Each command imports what it needs: `imagegen up` should not wait for what `imagegen doctor` looks with.
_STDERR = 2

cli = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # A traceback of typer's shows what the variables hold.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Images from prompts, on your own machine.",
)
cli.add_typer(models, name="models")

UrlOption = Annotated[str | None, typer.Option(help="Address of the service; default: the one of SD_HOST and SD_PORT.")]


@cli.callback()
def _commands() -> None:
    """Keeps sub-commands even while there are few."""


@cli.command()
def up() -> None:
    """Start the whole service here: Redis, API, workers, dashboard. Ctrl-C stops it."""
    from compose.launcher.up import up as launch

    with errors_as_one_sentence():
        launch(load(LauncherSettings), command=_how_called())


@cli.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the image shows.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to put it; the ending chooses the format.")
    ] = Path("picture.png"),  # codespell:ignore picture
    negative_prompt: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    backend: Annotated[str | None, typer.Option(help="sd, flux-local or flux-api.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image to begin with or to go by; may be told several times.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="White where the image is to be repainted.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of the image may change, up to 1.")] = None,
    bfl_model: Annotated[str | None, typer.Option(help="Model of flux-api, such as flux-2-klein-4b.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How strictly to follow the prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same image.")] = None,
    url: UrlOption = None,
) -> None:
    """Make one image with the running service, and watch it being made. SD_API_KEY is sent if it is set."""
    body: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "backend": backend,
        "strength": strength,
        "bfl_model": bfl_model,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
    }
    from rich.console import Console

    from compose.cli.client import base64_of

    console = Console()
    with errors_as_one_sentence():
        client = _client(url, console)
        body |= {"image": [base64_of(path) for path in image or ()] or None, "mask": base64_of(mask) if mask else None}
        job = client.generate({k: v for k, v in body.items() if v is not None}, output)
        made = job["images"][0]
        print(f"{output}  {made['width']}x{made['height']}  seed {made['seed']}  {job['model']}")


@cli.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Age, such as 12h, 7d or 4w.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also images of an installation whose Redis was lost, from now on.")
    ] = False,
) -> None:
    """Remove old jobs and images. Pinned ones stay."""
    from compose.cli.prune import age_of
    from compose.cli.prune import prune as clear_away

    with errors_as_one_sentence():
        removed = clear_away(load(LauncherSettings), age_of(older_than), dry_run=dry_run, take_over=take_over)
        verb = "Would remove" if dry_run else "Removed"
        print(f"{verb} {removed.jobs} jobs and {removed.files} files ({removed.bytes / 1e6:.1f} MB)")


@cli.command()
def status(
    once: Annotated[bool, typer.Option("--once", help="Tell it once; so it is where no terminal is.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Once, for programs.")] = False,
    url: UrlOption = None,
) -> None:
    """Backends, workers, queue and what runs, as it changes. Told once, it fails unless the service is `ok`."""
    from rich.console import Console

    from compose.cli.status import StatusReport, watch

    console = Console()
    with errors_as_one_sentence():
        client = _client(url, console)
        if console.is_terminal and not (once or as_json):
            watch(client, console)
            return
        seen = StatusReport.read(client)
        if as_json:
            print(json.dumps(seen.as_json(), indent=2))
        else:
            console.print(seen.shown(), highlight=False)
        raise typer.Exit(0 if seen.is_well else 1)


@cli.command()
def logs(
    processes: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(PROCESSES)}; default: all.")] = None,
    job: Annotated[str | None, typer.Option(help="Only what names the job with this id.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many to begin with.")] = 100,
    follow: Annotated[
        bool | None, typer.Option("--follow/--no-follow", "-f", help="Go on with what comes; default: on a terminal.")
    ] = None,
) -> None:
    """What the processes of `imagegen up` say and said. It is kept in SD_DATA_DIR/logs, 50 MB at most."""
    with errors_as_one_sentence():
        follows = sys.stdout.isatty() if follow is None else follow
        show(load(LauncherSettings), processes or (), job=job, most=lines, follow=follows)


@cli.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look for what is wrong or could go wrong, and say what to do. Fails if something does not work."""
    from rich.console import Console

    from compose.doctor.command import run as examined

    with errors_as_one_sentence():
        raise typer.Exit(0 if examined(Console(), as_json=as_json) else 1)


def _how_called() -> str:
    """`imagegen` where the shell finds it by that name, else where the environment has it."""
    return "imagegen" if shutil.which("imagegen") else os.path.relpath(Path(sys.executable).with_name("imagegen"))


def _own_key(settings: LauncherSettings) -> str | None:
    """One that may make jobs, if there is one."""
    keys = sorted(settings.api_key, key=lambda key: not key.scope.includes(Scope.WRITE))
    return keys[0].secret.get_secret_value() if keys else None


def _client(url: str | None, console: "Console") -> "ApiClient":
    """Raises ConfigurationError; and ClientError where no address is named and this installation does not run here."""
    from compose.cli.client import ApiClient
    from compose.launcher.supervise import is_running
    from compose.launcher.up import url_of

    settings = load(LauncherSettings)
    own = settings.public_url or url_of(settings, settings.port)
    # Whoever else listens at an address that nobody chose is sent no key and no prompt.
    chosen = settings.model_fields_set & {"host", "port", "public_url", "redis_url"}
    if url is None and not chosen and not is_running(settings.data_dir):
        raise ClientError(
            f"imagegen is not running with SD_DATA_DIR={settings.data_dir}. Start it with `imagegen up`, or name the "
            f"service that you mean, such as --url {own}."
        )
    return ApiClient(url or own, console, _own_key(settings))


def main() -> None:
    # Standard streams that are closed would be given to the next files or pipes, and what is printed would go there.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal's encoding has every character; one that it lacks is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with errors_as_one_sentence():
        sys.exit(cli())


if __name__ == "__main__":
    main()
