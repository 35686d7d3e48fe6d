"""The model of the settings is loaded before anything else, and found again in the folder of models."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.jobs.types import Backend
from tests.worker.models.checkpoints.headers import sd15_shapes, write_header
from worker.engines.diffusers.loading.local_models import LocalModels
from worker.engines.diffusers.options import DiffusersOptions
from worker.models.catalogue import Catalogue
from worker.models.sources import STARTER, ModelSource

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


def downloaded(folder: Path) -> str:
    """As the client of Hugging Face leaves it."""
    shutil.copytree(STARTER, folder / "owner" / "model")
    (folder / "owner" / "model" / ".cache").mkdir()
    (folder / "owner" / "model" / ".cache" / "model_index.json.metadata").write_text("commit")
    return "owner/model"


def copied(folder: Path) -> str:
    write_header(folder / "model.safetensors", sd15_shapes())
    return "model"


@pytest.mark.parametrize("place", [downloaded, copied])
def test_a_scan_does_not_make_another_version_of_it_that_would_be_loaded_again(
    place: Callable[[Path], str], tmp_path: Path
) -> None:
    source = ModelSource("SD_MODEL_ID", place(tmp_path), tmp_path)
    catalogue, default = Catalogue(tmp_path, [source], settling_seconds=0), source.ensure_downloaded()
    models = LocalModels(catalogue, default, DiffusersOptions(device="cpu"), Backend.SD)
    loaded = models.revision(default.name)

    models.scan()

    assert models.revision(default.name) == loaded
