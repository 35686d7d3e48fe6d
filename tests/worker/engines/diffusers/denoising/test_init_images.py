"""Edits of input images, with and without masks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worker.conftest import alone, loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw, right_half, speckled
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loading.pipelines import load_pipelines
from worker.engines.diffusers.options import DiffusersOptions
from worker.images.values import Inputs
from worker.models.sources import ModelSource

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd": tiny.save_sd,
    "sdxl": tiny.save_sdxl,
    "lcm": tiny.save_lcm,
    "inpainting": tiny.save_inpainting,
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(folder: Path) -> DiffusersEngine:
    return loaded(folder)


def test_all_pipelines_share_the_same_weights(folder: Path) -> None:
    found = ModelSource("SD_MODEL_ID", str(folder), Path("unused")).ensure_downloaded()

    engine = load_pipelines(found, torch.device("cpu"), torch.float32, DiffusersOptions(), alone(found))

    for pipe in (engine.image, engine.inpaint):
        if pipe is not None:
            weights = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
            assert all(part is engine.text.components[name] for name, part in weights.items())
            assert "unet" in weights


def test_an_init_image_changes_the_result(model: DiffusersEngine) -> None:
    start = Inputs((speckled(),))

    little, much = (draw(model, start, num_inference_steps=10, strength=strength).pixels for strength in (0.1, 0.9))

    assert not np.array_equal(little, much)
    assert not np.array_equal(little, speckled())


@pytest.mark.parametrize(("strength", "runs"), [(1.0, 10), (0.75, 7), (0.3, 3), (0.01, 1)])
def test_the_strength_decides_how_many_steps_run(model: DiffusersEngine, strength: float, runs: int) -> None:
    drawn = draw(model, Inputs((speckled(),)), num_inference_steps=10, strength=strength)

    assert drawn.counted == [(step, runs) for step in range(1, runs + 1)]


def test_at_least_one_step_runs(model: DiffusersEngine) -> None:
    drawn = draw(model, Inputs((speckled(),)), num_inference_steps=1, strength=1 / 49)

    assert drawn.counted == [(1, 1)]


@pytest.mark.parametrize("strength", [None, 0.5])
def test_pixels_outside_the_mask_are_unchanged(model: DiffusersEngine, strength: float | None) -> None:
    start = Inputs((speckled(),), right_half())

    image = draw(model, start, strength=strength, num_images=2).images[1].pixels

    assert np.array_equal(image[:, :32], speckled()[:, :32])
    assert not np.array_equal(image[:, 32:], speckled()[:, 32:])


def test_masked_pixels_are_replaced_by_default(model: DiffusersEngine) -> None:
    drawn = draw(model, Inputs((speckled(),), right_half()), num_inference_steps=4)

    assert drawn.counted[-1] == (4, 4)


def test_mask_and_image_are_stretched_to_the_requested_size(model: DiffusersEngine) -> None:
    start = Inputs((speckled(32, 32),), right_half(16, 16))

    image = draw(model, start, width=64, height=96).pixels

    assert image.shape == (96, 64, 3)
    plain = draw(model, Inputs((speckled(32, 32),), np.zeros((16, 16), np.uint8)), width=64, height=96).pixels
    assert np.array_equal(image[:, :28], plain[:, :28])
    assert not np.array_equal(image[:, 36:], plain[:, 36:])


def test_a_grey_mask_blends_both_images(model: DiffusersEngine) -> None:
    def masked(shade: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        mask = np.full((64, 64), shade, np.uint8)
        return draw(model, Inputs((speckled(),), mask), strength=1).pixels.astype(np.int64)

    change = np.abs(masked(128) - speckled()).mean()

    assert 0 < change < np.abs(masked(255) - speckled()).mean()


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++_2m", "euler_a", "heun", "pndm", "unipc"])
def test_every_scheduler_respects_the_mask(scheduler: str, tmp_path: Path) -> None:
    start = Inputs((speckled(),), right_half())
    whole = Inputs((speckled(),), np.full((64, 64), 255, np.uint8))
    model = loaded(tiny.save_sd(tmp_path))

    half, all_of_it = (draw(model, inputs, scheduler=scheduler, num_inference_steps=4) for inputs in (start, whole))

    # The surroundings influence it: otherwise both would be the same within the mask.
    assert not np.array_equal(half.pixels[:, 48:], all_of_it.pixels[:, 48:])
    assert half.counted[-1] == (4, 4)


def test_an_inpainting_model_also_renders_without_an_input_image(tmp_path: Path) -> None:
    model = loaded(tiny.save_inpainting(tmp_path))

    first, second = (draw(model, prompt=prompt).pixels for prompt in ("a cat", "dogs"))

    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, second)
