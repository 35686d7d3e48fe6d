"""Models for tests that need no worker process."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from worker.models.sources import ModelSource

with warnings.catch_warnings():
    # Of others' code, while it is imported.
    warnings.simplefilter("ignore")
    from worker.engines.diffusers.stable_diffusion import StableDiffusion, StableDiffusionOptions


def loaded(model_id: str | Path, *, device: str = "cpu", **options: Any) -> StableDiffusion:
    """A model as workers load it; its images are not checked, unless the options say so."""
    model = ModelSource("SD_MODEL_ID", str(model_id), Path("unused")).ensure_downloaded()
    return StableDiffusion.load(model, StableDiffusionOptions(device=device, **options))


@pytest.fixture(scope="session")
def starter() -> StableDiffusion:
    return loaded("starter")
