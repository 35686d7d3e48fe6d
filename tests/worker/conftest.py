"""Models for tests that need no worker process."""

import warnings
from pathlib import Path

import pytest

from worker.models.sources import Source

with warnings.catch_warnings():
    # Of others' code, while it is imported.
    warnings.simplefilter("ignore")
    from worker.backends.stable_diffusion import StableDiffusion


def loaded(model_id: str | Path) -> StableDiffusion:
    """A model as workers load it."""
    return StableDiffusion.load(Source(str(model_id), Path("unused"), None).find(), "cpu", "auto")


@pytest.fixture(scope="session")
def starter() -> StableDiffusion:
    return loaded("starter")
