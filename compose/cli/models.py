"""Models on this machine: `imagegen models list|pull|remove`."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.client_error import errors_as_one_sentence
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

if TYPE_CHECKING:
    from rich.console import Console

    from worker.models.sources import ModelSource

models = typer.Typer(no_args_is_help=True, help="Models on this machine: what is there, fetch one, be rid of one.")


@models.command("list")
def show() -> None:
    """What is in SD_MODEL_DIR, and what the settings name."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from worker.models import model_store
    from worker.models.download_plans import format_bytes
    from worker.models.sources import MODEL_SETTINGS, STARTER_NAME, ModelSource

    with errors_as_one_sentence():
        settings = load(LauncherSettings)
        named = {
            source.repository: source
            for source in (ModelSource.for_backend(settings, backend) for backend in MODEL_SETTINGS)
        }
        table = Table("model", "size", "state", "named by", box=None, pad_edge=False)
        for kept in model_store.stored_models(settings.model_dir):
            state = f"{format_bytes(kept.missing_bytes)} to go" if kept.missing_bytes else "complete"
            source = named.pop(kept.name, None)
            table.add_row(escape(kept.name), format_bytes(kept.size_bytes), state, source.setting if source else "")
        for name, source in named.items():
            state = "bundled" if name == STARTER_NAME else "not downloaded" if source.is_remote else "your own folder"
            table.add_row(escape(name), "", state, source.setting)
        Console().print(table)


@models.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="As Hugging Face has them; default: those of the engines in SD_BACKENDS.")
    ] = None,
) -> None:
    """Download models, or what is missing of them."""
    from worker.models.sources import MODEL_SETTINGS, ModelSource

    with errors_as_one_sentence():
        settings = load(LauncherSettings)
        configured = [
            ModelSource.for_backend(settings, backend) for backend in settings.backends if backend in MODEL_SETTINGS
        ]
        for source in [ModelSource.for_model(settings, name) for name in names] if names else configured:
            _pull(source)


@models.command()
def remove(name: Annotated[str, typer.Argument(help="As `imagegen models list` has it.")]) -> None:
    """Delete a downloaded model."""
    from worker.models import model_store
    from worker.models.download_plans import format_bytes

    with errors_as_one_sentence():
        gone = model_store.remove_model(load(LauncherSettings).model_dir, name)
        print(f"Removed {gone.name} ({format_bytes(gone.size_bytes)})")


def _pull(source: "ModelSource") -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        _ending_at_once(console),
    ):
        bar = progress.add_task(escape(source.repository), total=None)
        model = source.ensure_downloaded(lambda _, done, total: progress.update(bar, completed=done, total=total))
    print(f"{model.name} is in {model.folder}")


@contextmanager
def _ending_at_once(console: "Console") -> Iterator[None]:
    """Python would wait for the hub's threads, which end with their files. Those that are whole stay."""

    def end(*_: object) -> None:
        console.show_cursor()
        os._exit(130)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
