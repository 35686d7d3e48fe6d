"""Additions to a model that requests choose by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from shared.errors import InvalidRequest
from shared.schemas import GenerationRequest
from tests.worker import tiny
from tests.worker.conftest import loaded
from tests.worker.drawing import draw, right_half, speckled
from worker.backends.base import Inputs
from worker.backends.stable_diffusion import StableDiffusion, loras

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def lora_dir(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two that fit, one with dots in its name, and two that do not."""
    lora_dir = tmp_path_factory.mktemp("loras")
    tiny.save_lora(lora_dir, "fine", folder)
    tiny.save_lora(lora_dir / "v1.5 detail", "weights", folder, rank=3)
    other = tiny.save_sdxl(lora_dir.parent / "xl")
    tiny.save_lora(lora_dir, "for-xl", other)
    (lora_dir / "no-weights.safetensors").write_bytes(b"nothing of the kind")
    return lora_dir


@pytest.fixture(scope="module")
def model(folder: Path, lora_dir: Path) -> StableDiffusion:
    return loaded(folder, lora_dir=lora_dir)


def using(*names: str, scale: float = 1.0) -> list[dict[str, object]]:
    return [{"name": name, "scale": scale} for name in names]


def test_names_are_those_of_files_and_of_folders_with_one_file(lora_dir: Path) -> None:
    assert list(loras.found_in(lora_dir)) == ["fine", "for-xl", "no-weights", "v1.5 detail"]


def test_what_has_no_proper_name_or_could_run_code_is_left_out(lora_dir: Path, tmp_path: Path) -> None:
    for name in ("-flag.safetensors", "smile\u263a.safetensors", "pickled.ckpt", "pickled.bin", ".safetensors"):
        shutil.copy(lora_dir / "fine.safetensors", tmp_path / name)
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        shutil.copy(lora_dir / "fine.safetensors", tmp_path / "two" / f"{name}.safetensors")

    assert loras.found_in(tmp_path) == {}


def test_a_folder_that_is_not_there_has_none(tmp_path: Path) -> None:
    assert loras.found_in(tmp_path / "nothing") == {}


def test_a_lora_changes_the_picture_by_its_scale(model: StableDiffusion) -> None:
    plain, little, much = (draw(model, loras=using("fine", scale=scale)).pixels for scale in (0, 0.5, 2))

    assert np.array_equal(plain, draw(model).pixels)
    assert not np.array_equal(plain, little)
    assert not np.array_equal(little, much)


def test_the_job_after_it_is_made_without(model: StableDiffusion) -> None:
    before = draw(model).pixels

    draw(model, loras=using("fine"))

    assert np.array_equal(draw(model).pixels, before)


def test_several_work_together(model: StableDiffusion) -> None:
    one, other, both = (draw(model, loras=using(*names)).pixels for names in ASKED)

    assert not np.array_equal(both, one)
    assert not np.array_equal(both, other)


ASKED = (("fine",), ("v1.5 detail",), ("fine", "v1.5 detail"))


def test_pictures_that_begin_with_one_have_it_too(model: StableDiffusion) -> None:
    start = Inputs((speckled(),), right_half())

    assert not np.array_equal(draw(model, start, loras=using("fine")).pixels, draw(model, start).pixels)


def test_one_that_was_left_behind_by_a_job_that_failed_has_no_effect(model: StableDiffusion) -> None:
    before = draw(model).pixels

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(model, on_step=stop, loras=using("fine"))

    assert np.array_equal(draw(model).pixels, before)


@pytest.mark.parametrize("name", ["for-xl", "no-weights"])
def test_one_that_does_not_fit_fails_its_job_and_no_other(model: StableDiffusion, name: str) -> None:
    before = draw(model).pixels

    with pytest.raises(InvalidRequest, match=f"The LoRA {name} does not fit the model"):
        draw(model, loras=using("fine", name))

    assert np.array_equal(draw(model).pixels, before)
    assert not np.array_equal(draw(model, loras=using("fine")).pixels, before)


def test_one_that_is_not_there_is_refused_by_field(model: StableDiffusion) -> None:
    request = GenerationRequest.model_validate({"prompt": "x", "loras": using("fine", "nothing")})

    with pytest.raises(InvalidRequest) as caught:
        model.capabilities.check(request)

    (error,) = caught.value.errors
    assert error.pointer == "/loras/1/name"
    assert error.detail == "must be one of fine, for-xl, no-weights, v1.5 detail"


def test_only_so_many_stay_loaded(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "MOST_LOADED", 1)
    gone: list[str] = []
    delete = StableDiffusionPipeline.delete_adapters
    monkeypatch.setattr(
        StableDiffusionPipeline, "delete_adapters", lambda pipe, name: (gone.append(name), delete(pipe, name))
    )
    first = draw(model, loras=using("fine")).pixels

    draw(model, loras=using("v1.5 detail"))

    assert len(gone) >= 1
    assert np.array_equal(draw(model, loras=using("fine")).pixels, first)
