"""`imagegen models list|plan|pull|remove`: manages the models on this machine."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.model_plans import plan
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

if TYPE_CHECKING:
    from rich.console import Console

    from worker.models.sources import ModelSource

models = typer.Typer(no_args_is_help=True, help="List, download and delete models on this machine.")
models.command()(plan)


@models.command("list")
def show() -> None:
    """List the models in SD_MODEL_DIR and in the settings, each with its state."""
    from rich.markup import escape

    from compose.cli.terminal import create_console, create_table
    from worker.models.catalogue import Catalogue
    from worker.models.download_plans import format_bytes
    from worker.models.hub import model_store

    settings = load(LauncherSettings)
    table = create_table("model", "size", "state", "licence", "setting")
    catalogue = Catalogue.of(settings).scan()
    for name, entry in catalogue.items():
        size = format_bytes(entry.size_bytes) if entry.size_bytes else ""
        state = f"{entry.state}: {entry.reason}" if entry.reason else str(entry.state)
        table.add_row(escape(name), size, escape(state), escape(entry.licence or ""), entry.setting or "")
    for name, stored_bytes in model_store.stored_models(settings.model_dir).items():
        if name not in catalogue:
            # Single parts, such as a safety checker, are no models that requests can choose.
            table.add_row(escape(name), format_bytes(stored_bytes), "a part of other models", "", "")
    create_console().print(table)


@models.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names on Hugging Face; default: the models that the settings name.")
    ] = None,
) -> None:
    """Download models; continues interrupted downloads."""
    from worker.models.sources import ModelSource

    settings = load(LauncherSettings)
    asked_for = [ModelSource.for_model(settings, name) for name in names or ()]
    for source in asked_for or ModelSource.all_named(settings):
        _pull(source)


@models.command()
def remove(name: Annotated[str, typer.Argument(help="As shown by `imagegen models list`.")]) -> None:
    """Delete a downloaded model."""
    from worker.models.download_plans import format_bytes
    from worker.models.hub import model_store

    removed_bytes = model_store.remove_model(load(LauncherSettings).model_dir, name)
    print(f"Removed {name} ({format_bytes(removed_bytes)})")


def _pull(source: "ModelSource") -> None:
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from compose.cli.terminal import create_console

    console = create_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        _immediate_interrupt(console),
    ):
        bar = progress.add_task(escape(source.repository), total=None)
        model = source.ensure_downloaded(lambda _, done, total: progress.update(bar, completed=done, total=total))
    print(f"{model.name} is in {model.path}")


@contextmanager
def _immediate_interrupt(console: "Console") -> Iterator[None]:
    """Ctrl-C ends the process at once: Python would wait for the hub's threads. Complete files stay."""

    def interrupt(*_: object) -> None:
        console.show_cursor()
        os._exit(130)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
