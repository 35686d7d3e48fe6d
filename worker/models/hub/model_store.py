"""Lists and removes downloaded models."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import ConfigurationError
from worker.models.download_plans import PLAN_FILE, DownloadPlan
from worker.models.hub.errors import validate_model_id
from worker.models.required_files import MODEL_CONFIG, PIPELINE_INDEX


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
        if any((folder / name).is_file() for name in (PIPELINE_INDEX, MODEL_CONFIG, PLAN_FILE)):
            yield _stored_model(folder)


def remove_model(model_dir: Path, name: str) -> StoredModel:
    """Returns the removed model. Raises ConfigurationError if there is no such model."""
    validate_model_id(name)
    folder = model_dir / name
    if not folder.is_dir():
        raise ConfigurationError(f"{name} is not in {model_dir.absolute()}.")
    model = _stored_model(folder)
    # The files that mark it as complete go first, in case the removal is interrupted.
    for index in (PIPELINE_INDEX, MODEL_CONFIG):
        (folder / index).unlink(missing_ok=True)
    shutil.rmtree(folder)
    if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return model


def _stored_model(folder: Path) -> StoredModel:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    plan = DownloadPlan.read(folder)
    missing = plan.total_bytes - plan.complete_bytes(folder) if plan else 0
    return StoredModel("/".join(folder.parts[-2:]), size, missing)
