"""Two models with parts in common."""

import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.engines.diffusers.families.models import save_model
from tests.worker.engines.diffusers.memory.two_models import ONE, OTHER, change
from worker.engines.diffusers.loading import pipeline_loading


@pytest.fixture
def two_models(tmp_path: Path, published: Path) -> Path:
    """Two models that differ in their transformers only, with copies of the same other files."""
    for name in (ONE, OTHER):
        shutil.copytree(published, tmp_path / name)
    change(tmp_path / OTHER / "transformer")
    return tmp_path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return save_model("z-image", tmp_path_factory.mktemp("published"))


@pytest.fixture
def parts_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are read from disk, in order."""
    names: list[str] = []
    load_part = pipeline_loading.load_part

    def noting(kind: Any, folder: Path, name: str, dtype: torch.dtype) -> Any:
        names.append(name)
        return load_part(kind, folder, name, dtype)

    monkeypatch.setattr(pipeline_loading, "load_part", noting)
    return names
