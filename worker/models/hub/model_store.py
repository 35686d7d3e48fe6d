"""Lists downloaded models, and removes models."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError
from worker.models.download_plans import PLAN_FILE, DownloadPlan
from worker.models.local_model import MODULAR_INDEX
from worker.models.overrides import OVERRIDES_FILE
from worker.models.required_files import MODEL_CONFIG, PIPELINE_INDEX
from worker.models.weight_files import FILE_SUFFIXES, PICKLES

#: Files that mark a folder as a model, or as the start of one.
_MARKERS = (PIPELINE_INDEX, MODULAR_INDEX, MODEL_CONFIG, PLAN_FILE)


@dataclass(frozen=True)
class StoredModel:
    """A downloaded model, complete or not."""

    name: str
    size_bytes: int
    missing_bytes: int
    """0 if it is complete."""


def stored_models(model_dir: Path) -> Iterator[StoredModel]:
    """Sorted by name."""
    for folder in sorted(model_dir.glob("*/*/")):
        if any((folder / name).is_file() for name in _MARKERS):
            yield _stored_model(folder, "/".join(folder.parts[-2:]))


def remove_model(model_dir: Path, name: str) -> StoredModel:
    """Returns the removed model. Raises ConfigurationError if there is no such model."""
    path = _path_of(model_dir, name)
    if path is None:
        raise ConfigurationError(f"{name} is not a model in {model_dir.absolute()}.")
    if path.is_symlink() or path.is_file():
        model = StoredModel(name, path.lstat().st_size, 0)
        path.unlink()
        path.with_name(f"{path.stem}.{OVERRIDES_FILE}").unlink(missing_ok=True)
    else:
        model = _stored_model(path, name)
        # The files that mark it as complete go first, in case the removal is interrupted.
        for index in (PIPELINE_INDEX, MODULAR_INDEX, MODEL_CONFIG):
            (path / index).unlink(missing_ok=True)
        shutil.rmtree(path)
    if path.parent != model_dir and not any(path.parent.iterdir()):
        path.parent.rmdir()
    return model


def _path_of(model_dir: Path, name: str) -> Path | None:
    """The folder or the file of a model by the name that the catalogue gives it."""
    if not all(part and part not in (".", "..") for part in name.split("/")) or "\0" in name:
        return None
    path = model_dir / name
    if not path.parent.resolve().is_relative_to(model_dir.resolve()):
        return None
    if any((path / marker).is_file() for marker in _MARKERS) and not path.is_symlink():
        return path
    files = (path.with_name(f"{path.name}{suffix}") for suffix in ("", *FILE_SUFFIXES, *PICKLES))
    return next((file for file in files if file.is_symlink() or (file.is_file() and _is_model_file(file))), None)


def _is_model_file(file: Path) -> bool:
    return file.name.endswith((*FILE_SUFFIXES, *PICKLES))


def _stored_model(folder: Path, name: str) -> StoredModel:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    plan = DownloadPlan.read(folder)
    missing = plan.total_bytes - plan.complete_bytes(folder) if plan else 0
    return StoredModel(name, size, missing)
