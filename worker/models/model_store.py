"""The folder of downloaded models: what is there, and how to be rid of it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError
from worker.models.download_plans import FILE, Plan
from worker.models.hub_errors import require_name
from worker.models.required_files import CONFIG, INDEX


@dataclass(frozen=True)
class StoredModel:
    """A model on the shelf, whole or in part."""

    name: str
    bytes_there: int
    bytes_missing: int
    """0 where it is whole."""


def stored_models(shelf: Path) -> Iterator[StoredModel]:
    """By name."""
    for folder in sorted(shelf.glob("*/*/")):
        if any((folder / name).is_file() for name in (INDEX, CONFIG, FILE)):
            yield _kept(folder)


def remove(shelf: Path, name: str) -> StoredModel:
    """What is gone now. Raises ConfigurationError where there is no such model."""
    require_name(name)
    folder = shelf / name
    if not folder.is_dir():
        raise ConfigurationError(f"{name} is not in {shelf.absolute()}.")
    kept = _kept(folder)
    # First what makes it count as whole: a removal that is cut short must not leave half a model behind.
    for index in (INDEX, CONFIG):
        (folder / index).unlink(missing_ok=True)
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return kept


def _kept(folder: Path) -> StoredModel:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    plan = Plan.found_in(folder)
    missing = plan.bytes_total - plan.bytes_whole(folder) if plan else 0
    return StoredModel("/".join(folder.parts[-2:]), size, missing)
