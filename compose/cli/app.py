"""The command line: `imagegen up`, `generate`, `upscale`, `mcp`, `status`, `logs`, `doctor`, `prune`, `models`."""

import io
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from compose.cli.client_error import ClientError, errors_as_one_sentence
from compose.cli.logs import PROCESSES, print_logs
from compose.cli.models import models
from shared.access.api_keys import Scope
from shared.observability.logs import open_standard_streams
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

# Each command imports what it needs, so that `imagegen up` does not wait for the modules of `imagegen doctor`.


class Commands(TyperGroup):
    """Ends every command, also those of groups in it, with one sentence where it fails."""

    def invoke(self, ctx: Any) -> Any:
        with errors_as_one_sentence():
            return super().invoke(ctx)


cli = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    # Typer's tracebacks show the values of variables.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Generate images from prompts, on your own machine.",
)
cli.add_typer(models, name="models")

UrlOption = Annotated[str | None, typer.Option(help="URL of the service; default: from SD_HOST and SD_PORT.")]


@cli.command()
def up() -> None:
    """Start the whole service on this machine: Redis, API, workers, Flower. Ctrl-C stops it."""
    from compose.launcher.up import up as launch
    from shared.workers.gpus import visible_gpus

    launch(load(LauncherSettings), command=_command_name(), gpus=visible_gpus(os.environ))


@cli.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the image shows.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; its extension chooses the format.")
    ] = Path("picture.png"),  # codespell:ignore picture
    negative_prompt: Annotated[str | None, typer.Option(help="What the image should not show.")] = None,
    backend: Annotated[str | None, typer.Option(help="sd, flux-local or flux-api.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="Input or reference image; may be given several times.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Mask: white pixels are repainted.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of the image may change, up to 1.")] = None,
    model: Annotated[str | None, typer.Option(help="Model, such as starter or flux-2-klein-4b.")] = None,
    bfl_model: Annotated[str | None, typer.Option(help="Alias of --model.", hidden=True)] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How strictly to follow the prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same image.")] = None,
    url: UrlOption = None,
) -> None:
    """Generate one image with the running service and show the progress; Ctrl-C cancels. Sends SD_API_KEY if set."""
    body: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "backend": backend,
        "strength": strength,
        "model": model or bfl_model,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "seed": seed,
    }
    from compose.cli.client import ApiClient, base64_of

    if not all(map(math.isfinite, (strength or 0, guidance or 0))):
        raise ClientError("--strength and --guidance must be finite numbers.")
    client = ApiClient(*_service(url))
    body |= {"image": [base64_of(path) for path in image or ()] or None, "mask": base64_of(mask) if mask else None}
    job = client.generate({k: v for k, v in body.items() if v is not None}, output)
    result = job["images"][0]
    print(f"{output}  {result['width']}x{result['height']}  seed {result['seed']}  {job['model']}")


@cli.command()
def upscale(
    image: Annotated[Path, typer.Argument(help="The image to enlarge.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write; its extension chooses the format.")
    ] = Path("enlarged.png"),
    model: Annotated[str, typer.Option(help="An upscaler, such as upscalers/4x-UltraSharp.")] = "upscale-starter",
    width: Annotated[int | None, typer.Option(help="Pixels; default: four times those of the image.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    url: UrlOption = None,
) -> None:
    """Enlarge an image with the running service and show the progress; Ctrl-C cancels. Sends SD_API_KEY if set."""
    from compose.cli.client import ApiClient, base64_of

    client = ApiClient(*_service(url))
    sides = {name: side for name, side in (("width", width), ("height", height)) if side is not None}
    body = {"prompt": "enlarge this image", "model": model, "image": base64_of(image), **sides}
    result = client.generate(body, output)["images"][0]
    print(f"{output}  {result['width']}x{result['height']}")


@cli.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Age, such as 12h, 7d or 4w.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Take over the images of an installation whose Redis was lost."),
    ] = False,
) -> None:
    """Remove old jobs and images, except pinned ones."""
    from compose.cli.prune import parse_age
    from compose.cli.prune import prune as remove_old

    removed = remove_old(load(LauncherSettings), parse_age(older_than), dry_run=dry_run, take_over=take_over)
    verb = "Would remove" if dry_run else "Removed"
    print(f"{verb} {removed.jobs} jobs and {removed.files} files ({removed.bytes / 1e6:.1f} MB)")


@cli.command()
def mcp(url: UrlOption = None) -> None:
    """Serve MCP clients that start a program instead of calling a URL. Sends SD_API_KEY if it is set."""
    from compose.cli.mcp import serve

    serve(*_service(url))


@cli.command()
def status(
    once: Annotated[bool, typer.Option("--once", help="Print once and exit; the default without a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print once, as JSON.")] = False,
    url: UrlOption = None,
) -> None:
    """Show backends, workers, queue and running jobs. Printed once, exits with 1 unless the service is `ok`."""
    from compose.cli.client import ApiClient
    from compose.cli.status import StatusReport, watch
    from compose.cli.terminal import create_console

    console = create_console()
    client = ApiClient(*_service(url))
    if console.is_terminal and not (console.is_dumb_terminal or once or as_json):
        watch(client, console)
        return
    report = StatusReport.read(client)
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        console.print(report.render(), highlight=False)
    raise typer.Exit(0 if report.is_ok else 1)


@cli.command()
def logs(
    processes: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(PROCESSES)}; default: all.")] = None,
    job: Annotated[str | None, typer.Option(help="Only entries that contain this job id.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many existing lines to print.")] = 100,
    follow: Annotated[
        bool | None,
        typer.Option("--follow/--no-follow", "-f", help="Print new lines as they come; default: on a terminal."),
    ] = None,
) -> None:
    """Print the output of the processes of `imagegen up`, from SD_DATA_DIR/logs (50 MB at most)."""
    follows = sys.stdout.isatty() if follow is None else follow
    print_logs(load(LauncherSettings), processes or (), job=job, max_lines=lines, follow=follows)


@cli.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check machine, settings and service, and suggest remedies. Exits with 1 if there is a problem."""
    from compose.cli.terminal import create_console
    from compose.doctor.command import run as run_doctor

    raise typer.Exit(0 if run_doctor(create_console(), as_json=as_json) else 1)


def _command_name() -> str:
    """`imagegen` if the shell finds it by that name, else its path in the environment."""
    return "imagegen" if shutil.which("imagegen") else os.path.relpath(Path(sys.executable).with_name("imagegen"))


def _default_key(settings: LauncherSettings) -> str | None:
    """The first key, preferably one that may create jobs."""
    keys = sorted(settings.api_key, key=lambda key: not key.scope.includes(Scope.WRITE))
    return keys[0].secret.get_secret_value() if keys else None


def _service(url: str | None) -> tuple[str, str | None]:
    """The URL of the service, and a key for it.

    Raises ConfigurationError; ClientError where no URL is given and this installation is not running.
    """
    from compose.launcher.data_folder import is_running
    from compose.launcher.up import url_of

    settings = load(LauncherSettings)
    default_url = settings.public_url or url_of(settings, settings.port)
    # At a default address, another program may listen: it must not get a key or a prompt.
    is_chosen = settings.model_fields_set & {"host", "port", "public_url", "redis_url"}
    if url is None and not is_chosen and not is_running(settings.data_dir):
        raise ClientError(
            f"imagegen is not running with SD_DATA_DIR={settings.data_dir.absolute()}. Start it with `imagegen up`, or "
            f"name a running service, for example: --url {default_url}."
        )
    return url or default_url, _default_key(settings)


def main() -> None:
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not be an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with errors_as_one_sentence():
        sys.exit(cli())


if __name__ == "__main__":
    main()
