"""Out of memory and broken images, in real pipelines with failing parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.autoencoders.vae import Decoder

from shared.errors import InvalidOutput, OutOfMemory
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import NOTHING, draw
from tests.worker.recording_watch import RecordingWatch
from worker.engines.diffusers.engine import DiffusersEngine

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

ONE_BY_ONE = "memory was short: images were made one by one"
TILES = "memory was short: images were encoded and decoded in tiles"
DECODED_AGAIN = "the image came out black or broken: it was decoded again in float32"
MADE_AGAIN = "the image came out black or broken: it was made again in float32"

Change = Callable[..., Any]


@pytest.fixture
def model(tmp_path: Path) -> DiffusersEngine:
    return loaded(tiny.save_sd(tmp_path / "model"))


@pytest.fixture
def wrap(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[torch.nn.Module], Change], None]:
    """Wraps the forward method of a class of modules."""

    def around(module: type[torch.nn.Module], change: Change) -> None:
        forward = module.forward

        def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
            return change(lambda: forward(self, *args, **kwargs), args[0])

        monkeypatch.setattr(module, "forward", changed)

    return around


def full_above(images: int = 10**9, pixels: int = 10**9) -> Change:
    """A device that runs out of memory above this size."""

    def compute(go_on: Callable[[], Any], sample: torch.Tensor) -> Any:
        if sample.shape[0] > images or sample.shape[2] * sample.shape[3] > pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return go_on()

    return compute


def nan(times: int) -> Change:
    """This many results of NaN, then correct ones."""
    left = [times]

    def compute(go_on: Callable[[], Any], _: torch.Tensor) -> Any:
        result = go_on()
        if not left[0]:
            return result
        left[0] -= 1
        first = result[0] if isinstance(result, tuple) else result
        return (first * torch.nan,) if isinstance(result, tuple) else first * torch.nan

    return compute


def close(one: Any, other: Any) -> bool:
    return bool(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean() < 1)


def test_a_batch_that_does_not_fit_is_rendered_one_by_one(model: DiffusersEngine, wrap: Callable[..., None]) -> None:
    together = draw(model, num_images=3)
    # Each image has two predictions: with the prompt and without.
    wrap(UNet2DConditionModel, full_above(images=2))

    alone = draw(model, num_images=3)

    assert alone.watch.warnings == [ONE_BY_ONE]
    assert all(close(*pair) for pair in zip(together.images, alone.images, strict=True))
    assert alone.counted == [(step, 6) for step in range(1, 7)]


def test_an_image_that_does_not_fit_the_decoder_is_decoded_in_tiles(
    model: DiffusersEngine, wrap: Callable[..., None]
) -> None:
    wrap(Decoder, full_above(pixels=32 * 32))

    drawn = draw(model, width=96, height=96)

    assert drawn.watch.warnings == [TILES]
    assert drawn.pixels.shape == (96, 96, 3)
    # Finished images are not rendered again.
    assert drawn.counted == [(1, 2), (2, 2)]


def test_the_next_job_is_rendered_without_fallbacks(model: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw(model, width=96, height=96, num_images=2)
    with monkeypatch.context() as patch:
        forward = Decoder.forward
        patch.setattr(Decoder, "forward", lambda self, z: full_above(pixels=32 * 32)(lambda: forward(self, z), z))
        draw(model, width=96, height=96)

    after = draw(model, width=96, height=96, num_images=2)

    assert after.watch.warnings == []
    assert np.array_equal(before.images[1].pixels, after.images[1].pixels)


def test_a_job_that_never_fits_fails_and_suggests_a_size_that_did(
    model: DiffusersEngine, wrap: Callable[..., None]
) -> None:
    draw(model, width=96, height=96)
    wrap(UNet2DConditionModel, full_above(pixels=48 * 48))

    with pytest.raises(OutOfMemory, match="too little memory for 256x128 pixels; 128x64 should fit"):
        draw(model, width=256, height=128)

    assert draw(model, width=128, height=64).pixels.shape == (64, 128, 3)


def test_running_out_of_main_memory_fails_the_job(model: DiffusersEngine) -> None:
    def allocate(_: object) -> None:
        torch.empty(2**60)

    with pytest.raises(OutOfMemory):
        draw(model, NOTHING, RecordingWatch(allocate))


@pytest.mark.parametrize(("failing", "warning"), [(Decoder, DECODED_AGAIN), (UNet2DConditionModel, MADE_AGAIN)])
def test_a_broken_image_is_rendered_again_once(
    failing: type, warning: str, model: DiffusersEngine, wrap: Callable[..., None]
) -> None:
    sound = draw(model)
    wrap(failing, nan(times=1))

    again = draw(model)

    assert again.watch.warnings == [warning]
    assert np.array_equal(again.pixels, sound.pixels)
    assert again.counted == [(1, 2), (2, 2)]


def test_an_image_that_is_always_broken_is_never_delivered(model: DiffusersEngine, wrap: Callable[..., None]) -> None:
    wrap(Decoder, nan(times=10**9))
    watch = RecordingWatch()

    with pytest.raises(InvalidOutput):
        draw(model, NOTHING, watch)

    assert watch.warnings == [DECODED_AGAIN, MADE_AGAIN]


def test_an_image_of_one_colour_counts_as_broken(model: DiffusersEngine, wrap: Callable[..., None]) -> None:
    wrap(Decoder, lambda go_on, _: torch.full_like(go_on(), -1))

    with pytest.raises(InvalidOutput):
        draw(model)


@pytest.fixture
def overflowing(tmp_path: Path) -> Path:
    """A model whose decoder overflows in half precision, but not in full precision."""
    folder = tiny.save_sd(tmp_path / "overflowing")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    # The next layer normalises: in float32 the factor is invisible.
    weights = vae.decoder.conv_in.weight.data
    weights *= 3e4 / weights.abs().max()
    vae.save_pretrained(folder / "vae")
    return folder


def test_a_decoder_that_overflows_runs_in_full_precision_from_then_on(overflowing: Path) -> None:
    model = loaded(overflowing, dtype="float16")

    first, second = draw(model), draw(model)

    assert model.dtype == "float16"
    assert first.watch.warnings == [DECODED_AGAIN]
    assert second.watch.warnings == []
    assert np.array_equal(first.pixels, second.pixels)


def test_half_precision_returns_after_an_image_in_full_precision(tmp_path: Path, wrap: Callable[..., None]) -> None:
    model = loaded(tiny.save_sd(tmp_path), dtype="bfloat16")
    before = draw(model)
    wrap(UNet2DConditionModel, nan(times=1))

    assert draw(model).watch.warnings == [MADE_AGAIN]
    assert np.array_equal(draw(model).pixels, before.pixels)
