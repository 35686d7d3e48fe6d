"""The same tests on the CPU and on a GPU: precision, batches, compilation, and really running out of memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from shared.errors import OutOfMemory
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.devices import ON_EACH_DEVICE
from tests.worker.engines.drawing import NOTHING, draw, right_half, speckled
from tests.worker.recording_watch import RecordingWatch
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.memory import placement
from worker.engines.diffusers.options import Level
from worker.images.values import Inputs

pytestmark = [
    pytest.mark.parametrize("device", ON_EACH_DEVICE, scope="module"),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft|accelerate)"),
]
DTYPES = {"cpu": "float32", "cuda": "float16"}

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd": tiny.save_sd,
    "sd2": tiny.save_sd2,
    "sdxl": tiny.save_sdxl,
    "lcm": tiny.save_lcm,
    "inpainting": tiny.save_inpainting,
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, device: str, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    return loaded(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)), device=device)


def test_models_use_the_precision_of_the_device(model: DiffusersEngine, device: str) -> None:
    assert (torch.device(model.device).type, model.dtype) == (device, DTYPES[device])


def test_the_same_request_gives_the_same_pixels(model: DiffusersEngine) -> None:
    first, second = draw(model, num_images=2), draw(model, num_images=2)

    assert first.watch.warnings == []
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first.images, second.images, strict=True))


def test_pixels_outside_the_mask_are_unchanged(model: DiffusersEngine) -> None:
    image = draw(model, Inputs((speckled(),), right_half())).pixels

    assert np.array_equal(image[:, :32], speckled()[:, :32])


def test_an_image_that_fits_only_with_an_idle_part_offloaded_is_rendered(
    model: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The CPU has no memory of its own, but offloading works there, too.
    monkeypatch.setattr(placement, "has_own_memory", lambda _: True)
    before = draw(model).pixels
    # A graph would not call the forward that is replaced here.
    model._accelerator.drop()
    forward, crowded = UNet2DConditionModel.forward, [True]

    def full_while_all_of_it_is_there(unet: Any, *args: Any, **kwargs: Any) -> Any:
        # accelerate sets this attribute on offloaded parts.
        if crowded and not hasattr(unet, "_hf_hook"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(unet, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", full_while_all_of_it_is_there)

    relieved = draw(model)
    crowded.clear()

    assert relieved.watch.warnings[-1] == "memory was short: idle parts of the model waited in main memory"
    # On a CPU, sums depend on the address of the weights, and offloading copies them to others.
    levels = 1 if model.device == "cpu" else 0
    assert np.abs(relieved.pixels.astype(int) - before).max() <= levels
    after = draw(model)
    assert after.watch.warnings == []
    assert np.abs(after.pixels.astype(int) - before).max() <= levels


@contextmanager
def short_of_memory(device: str, spare_bytes: int) -> Iterator[int]:
    """A device on which this process may allocate only this much more; yields a size that is too large."""
    if device == "cpu":
        yield 1 << 50
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + spare_bytes) / total)
    try:
        yield 1 << 30
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_really_running_out_of_memory_fails_only_one_job(device: str, tmp_path: Path) -> None:
    model = loaded(tiny.save_sd(tmp_path), device=device)
    before = draw(model).pixels

    def allocate(_: object) -> None:
        torch.empty(too_much, device=device)

    with short_of_memory(device, 64 << 20) as too_much, pytest.raises(OutOfMemory, match="64x64 should fit"):
        draw(model, NOTHING, RecordingWatch(allocate), width=256, height=256)

    after = draw(model)
    assert after.watch.warnings == []
    assert after.watch.restart_reasons == []
    assert np.array_equal(after.pixels, before)


def close(one: Any, other: Any) -> bool:
    return bool(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean() < 1)


@pytest.mark.parametrize("images", [1, 4, 8])
def test_images_of_a_batch_equal_those_rendered_alone(images: int, device: str, tmp_path: Path) -> None:
    model = loaded(tiny.save_sdxl(tmp_path), device=device, max_batch_size=8)

    together = draw(model, num_images=images)

    assert together.counted == [(1, 2), (2, 2)]
    for index, image in enumerate(together.images):
        # The device computes batches of different sizes differently, and rounds differently.
        assert close(image, draw(model, seed=1 + index).images[0])


def test_compiled_code_gives_the_same_image_and_is_used_only_for_its_sizes(
    device: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        # Everything except the C++ compiler, which takes half a minute.
        compile_blocks = UNet2DConditionModel.compile_repeated_blocks
        monkeypatch.setattr(
            UNet2DConditionModel,
            "compile_repeated_blocks",
            lambda unet, **options: compile_blocks(unet, **{**options, "backend": "aot_eager"}),
        )
    folder = tiny.save_sd(tmp_path)
    plain = loaded(folder, device=device, dtype=DTYPES[device])
    try:
        with caplog.at_level("INFO", "worker"):
            model = loaded(folder, device=device, dtype=DTYPES[device], level=Level.MAX, compile_sizes=("64x64",))
        assert "compiled for 64x64" in caplog.text
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for size in ({}, {"num_images": 4}, {"width": 96, "height": 128}):
            pairs = zip(draw(model, **size).images, draw(plain, **size).images, strict=True)
            assert all(close(*pair) for pair in pairs)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    finally:
        torch.compiler.set_stance("default")
        torch.compiler.reset()
