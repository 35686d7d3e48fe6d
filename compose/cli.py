"""The command line: `imagegen up`, `generate`, `prune`, `doctor`, `models`."""

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from compose.client import Client, Trouble, base64_of
from compose.doctor.command import run as examined
from compose.housekeeping import age_of
from compose.housekeeping import prune as clear_away
from compose.launcher import up as launch
from compose.models import models
from compose.supervisor import StartFailed
from shared.access import Scope
from shared.errors import ConfigurationError, StorageUnavailable, StoreUnavailable
from shared.settings import LauncherSettings, load

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Pictures from prompts, on your own machine.")
cli.add_typer(models, name="models")


@cli.callback()
def _commands() -> None:
    """Keeps sub-commands even while there are few."""


@cli.command()
def up() -> None:
    """Start the whole service here: Redis, API, workers, dashboard. Ctrl-C stops it."""
    console = Console()
    try:
        asyncio.run(launch(load(LauncherSettings), console, command=_how_called()))
    except (ConfigurationError, StartFailed) as error:
        console.print(f"[bold red]{error}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


@cli.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to put it; the ending chooses the format.")
    ] = Path("picture.png"),
    negative_prompt: Annotated[str | None, typer.Option(help="What the picture should not show.")] = None,
    backend: Annotated[str | None, typer.Option(help="sd, flux-local or flux-api.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture to begin with or to go by; may be told several times.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="White where the picture is to be repainted.")] = None,
    strength: Annotated[float | None, typer.Option(help="How much of the picture may change, up to 1.")] = None,
    bfl_model: Annotated[str | None, typer.Option(help="Model of flux-api, such as flux-2-klein-4b.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How strictly to follow the prompt.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture.")] = None,
    url: Annotated[
        str | None, typer.Option(help="Address of the service; default: the one of SD_HOST and SD_PORT.")
    ] = None,
) -> None:
    """Make one picture with the running service, and watch it being made. SD_API_KEY is sent if it is set."""
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
    console = Console()
    try:
        settings = load(LauncherSettings)
        client = Client(url or _own_url(settings), console, _own_key(settings))
        body |= {"image": [base64_of(path) for path in image or ()] or None, "mask": base64_of(mask) if mask else None}
        job = client.generate({k: v for k, v in body.items() if v is not None}, output)
    except (ConfigurationError, Trouble) as error:
        console.print(f"[bold red]{error}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    made = job["images"][0]
    console.print(f"{output}  {made['width']}x{made['height']}  seed {made['seed']}  {job['model']}", highlight=False)


@cli.command()
def prune(
    older_than: Annotated[str, typer.Option(help="Age, such as 12h, 7d or 4w.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove old jobs and pictures. Pinned ones stay."""
    console = Console()
    try:
        removed = clear_away(load(LauncherSettings), age_of(older_than), dry_run=dry_run)
    except (ConfigurationError, StoreUnavailable, StorageUnavailable, ValueError) as error:
        console.print(f"[bold red]{error}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    verb = "Would remove" if dry_run else "Removed"
    size = f"{removed.bytes / 1e6:.1f} MB"
    console.print(f"{verb} {removed.jobs} jobs and {removed.files} files ({size})", highlight=False)


@cli.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look for what is wrong or could go wrong, and say what to do. Fails if something does not work."""
    raise typer.Exit(0 if examined(Console(), as_json=as_json) else 1)


def _how_called() -> str:
    """`imagegen` where the shell finds it by that name, else the path that was typed."""
    return "imagegen" if shutil.which("imagegen") else sys.argv[0]


def _own_key(settings: LauncherSettings) -> str | None:
    """One that may make jobs, if there is one."""
    keys = sorted(settings.api_key, key=lambda key: not key.scope.includes(Scope.WRITE))
    return keys[0].secret.get_secret_value() if keys else None


def _own_url(settings: LauncherSettings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    return settings.public_url or f"http://{host}:{settings.port}"


def main() -> None:
    sys.exit(cli())


if __name__ == "__main__":
    main()
