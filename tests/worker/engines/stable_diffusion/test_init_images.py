"""Images that begin with an image: as a whole, or within a mask."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw, right_half, speckled
from worker.engines.diffusers.stable_diffusion import StableDiffusion, loading
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
def model(folder: Path) -> StableDiffusion:
    return loaded(folder)


def test_every_way_to_use_a_model_is_on_the_same_weights(folder: Path) -> None:
    found = ModelSource("SD_MODEL_ID", str(folder), Path("unused")).ensure_downloaded()

    engine = loading.load(found, torch.device("cpu"), torch.float32)

    for pipe in (engine.image, engine.inpaint):
        if pipe is not None:
            weights = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
            assert all(part is engine.text.components[name] for name, part in weights.items())
            assert "unet" in weights


def test_a_image_that_begins_with_one_is_another(model: StableDiffusion) -> None:
    start = Inputs((speckled(),))

    little, much = (draw(model, start, num_inference_steps=10, strength=strength).pixels for strength in (0.1, 0.9))

    assert not np.array_equal(little, much)
    assert not np.array_equal(little, speckled())


@pytest.mark.parametrize(("strength", "runs"), [(1.0, 10), (0.75, 7), (0.3, 3), (0.01, 1)])
def test_as_many_steps_are_run_and_counted_as_the_strength_says(
    model: StableDiffusion, strength: float, runs: int
) -> None:
    drawn = draw(model, Inputs((speckled(),)), num_inference_steps=10, strength=strength)

    assert drawn.counted == [(step, runs) for step in range(1, runs + 1)]


def test_of_a_single_step_at_least_one_is_run(model: StableDiffusion) -> None:
    drawn = draw(model, Inputs((speckled(),)), num_inference_steps=1, strength=1 / 49)

    assert drawn.counted == [(1, 1)]


@pytest.mark.parametrize("strength", [None, 0.5])
def test_outside_of_the_mask_every_pixel_stays(model: StableDiffusion, strength: float | None) -> None:
    start = Inputs((speckled(),), right_half())

    image = draw(model, start, strength=strength, num_images=2).images[1].pixels

    assert np.array_equal(image[:, :32], speckled()[:, :32])
    assert not np.array_equal(image[:, 32:], speckled()[:, 32:])


def test_what_is_under_a_mask_is_replaced_unless_the_request_says_otherwise(model: StableDiffusion) -> None:
    drawn = draw(model, Inputs((speckled(),), right_half()), num_inference_steps=4)

    assert drawn.counted[-1] == (4, 4)


def test_mask_and_image_are_stretched_to_the_size_asked_for(model: StableDiffusion) -> None:
    start = Inputs((speckled(32, 32),), right_half(16, 16))

    image = draw(model, start, width=64, height=96).pixels

    assert image.shape == (96, 64, 3)
    plain = draw(model, Inputs((speckled(32, 32),), np.zeros((16, 16), np.uint8)), width=64, height=96).pixels
    assert np.array_equal(image[:, :28], plain[:, :28])
    assert not np.array_equal(image[:, 36:], plain[:, 36:])


def test_a_grey_mask_mixes_both(model: StableDiffusion) -> None:
    def masked(shade: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        mask = np.full((64, 64), shade, np.uint8)
        return draw(model, Inputs((speckled(),), mask), strength=1).pixels.astype(np.int64)

    change = np.abs(masked(128) - speckled()).mean()

    assert 0 < change < np.abs(masked(255) - speckled()).mean()


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++_2m", "euler_a", "heun", "pndm", "unipc"])
def test_every_kind_of_scheduler_keeps_to_the_mask(scheduler: str, tmp_path: Path) -> None:
    start = Inputs((speckled(),), right_half())
    whole = Inputs((speckled(),), np.full((64, 64), 255, np.uint8))
    model = loaded(tiny.save_sd(tmp_path))

    half, all_of_it = (draw(model, inputs, scheduler=scheduler, num_inference_steps=4) for inputs in (start, whole))

    # What lies around it has been seen: otherwise both would be the same within the mask.
    assert not np.array_equal(half.pixels[:, 48:], all_of_it.pixels[:, 48:])
    assert half.counted[-1] == (4, 4)


def test_a_model_made_for_inpainting_draws_from_nothing_too(tmp_path: Path) -> None:
    model = loaded(tiny.save_inpainting(tmp_path))

    first, second = (draw(model, prompt=prompt).pixels for prompt in ("a cat", "dogs"))

    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, second)
