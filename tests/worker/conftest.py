"""Models for tests that need no worker process."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from worker.models.local_model import LocalModel
from worker.models.sources import ModelSource

with warnings.catch_warnings():
    # Of others' code, while it is imported.
    warnings.simplefilter("ignore")
    from worker.engines.diffusers.engine import DiffusersEngine
    from worker.engines.diffusers.memory.shared_parts import PartLoading, SharedParts
    from worker.engines.diffusers.options import DiffusersOptions


def loaded(model_id: str | Path, *, device: str = "cpu", **options: Any) -> DiffusersEngine:
    """A model as workers load it; its images are not checked, unless the options say so."""
    model = ModelSource("SD_MODEL_ID", str(model_id), Path("unused")).ensure_downloaded()
    return DiffusersEngine.load(model, DiffusersOptions(device=device, **options))


def alone(model: LocalModel) -> PartLoading:
    """To load a model in full precision, with no other models in memory."""
    return PartLoading(model, "float32", SharedParts())


@pytest.fixture(scope="session")
def starter() -> DiffusersEngine:
    return loaded("starter")
