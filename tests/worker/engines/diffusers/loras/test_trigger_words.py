"""Models list the trigger words of the LoRAs that they can use."""

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from shared.jobs.types import Backend
from shared.models.capabilities import Capabilities
from tests.worker.engines import tiny
from worker.engines.diffusers.loading.local_models import LocalModels
from worker.engines.diffusers.loras.lora_files import trigger_words
from worker.engines.diffusers.options import DiffusersOptions
from worker.models.catalogue import Catalogue
from worker.models.sources import STARTER, folder_model

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

ANNA = "people/anna"


def write(file: Path, weights: Path, phrase: str | None) -> None:
    save_file(load_file(weights), file, {"modelspec.trigger_phrase": phrase} if phrase else None)


def capabilities(models: LocalModels, name: str) -> Capabilities:
    found = models.scan()[name].capabilities
    assert found is not None
    return found


def test_words_are_told_by_the_names_of_loras_and_read_again_when_a_file_changes(tmp_path: Path) -> None:
    model = tiny.save_sd(tmp_path / "models" / "sd")
    loras = tiny.save_lora(tmp_path / "loras", "silent", model)
    (loras / "people").mkdir()
    anna = loras / f"{ANNA}.safetensors"
    write(anna, loras / "silent.safetensors", "annastyle, red hair")
    options = DiffusersOptions(device="cpu", lora_dir=loras)
    catalogue = Catalogue(tmp_path / "models", settling_seconds=0)
    models = LocalModels(catalogue, folder_model("starter", STARTER), options, Backend.SD)

    first = capabilities(models, "sd")
    assert set(first.loras) == {ANNA, "people", "silent"}
    assert first.lora_trigger_words == dict.fromkeys((ANNA, "people"), ("annastyle", "red hair"))
    assert Capabilities.model_validate_json(first.model_dump_json()) == first

    write(anna, loras / "silent.safetensors", "other")
    os.utime(anna, ns=(1, 1))
    assert capabilities(models, "sd").lora_trigger_words[ANNA] == ("other",)


def test_files_that_tell_nothing_or_nonsense_have_no_words(tmp_path: Path) -> None:
    (tmp_path / "nonsense.safetensors").write_bytes(b"\xff" * 100)

    assert trigger_words({name: tmp_path / f"{name}.safetensors" for name in ("nonsense", "missing")}) == {}
