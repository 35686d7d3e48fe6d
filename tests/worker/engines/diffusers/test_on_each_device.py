"""The same on the CPU and on a GPU: precision, and a device whose memory really ends."""

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
from tests.worker.engines.drawing import draw, right_half, speckled
from worker.engines.diffusers import placement
from worker.engines.diffusers.stable_diffusion import StableDiffusion
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
def model(request: pytest.FixtureRequest, device: str, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return loaded(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)), device=device)


def test_models_run_in_the_precision_of_the_device(model: StableDiffusion, device: str) -> None:
    assert (torch.device(model.device).type, model.dtype) == (device, DTYPES[device])


def test_the_same_request_gives_the_same_pixels(model: StableDiffusion) -> None:
    first, second = draw(model, num_images=2), draw(model, num_images=2)

    assert first.watch.warnings == []
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first.images, second.images, strict=True))


def test_outside_of_the_mask_every_pixel_stays(model: StableDiffusion) -> None:
    image = draw(model, Inputs((speckled(),), right_half())).pixels

    assert np.array_equal(image[:, :32], speckled()[:, :32])


def test_a_image_that_fits_with_an_idle_half_outside_is_made_so(
    model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The CPU has none; but what is done then can be done there, too.
    monkeypatch.setattr(placement, "has_memory_of_its_own", lambda _: True)
    before = draw(model).pixels
    forward, crowded = UNet2DConditionModel.forward, [True]

    def full_while_all_of_it_is_there(unet: Any, *args: Any, **kwargs: Any) -> Any:
        # What accelerate leaves on a part that comes and goes.
        if crowded and not hasattr(unet, "_hf_hook"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(unet, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", full_while_all_of_it_is_there)

    relieved = draw(model)
    crowded.clear()

    assert relieved.watch.warnings[-1] == "memory was short: idle parts of the model waited in main memory"
    assert np.array_equal(relieved.pixels, before)
    after = draw(model)
    assert after.watch.warnings == []
    assert np.array_equal(after.pixels, before)


@contextmanager
def short_of_memory(device: str, spare_bytes: int) -> Iterator[int]:
    """A device on which this process may have so much more than it has; gives what is too much for it."""
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


def test_memory_that_really_ends_fails_one_job_and_no_other(device: str, tmp_path: Path) -> None:
    model = loaded(tiny.save_sd(tmp_path), device=device)
    before = draw(model).pixels

    with short_of_memory(device, 64 << 20) as too_much, pytest.raises(OutOfMemory, match="64x64 should fit"):
        draw(model, width=256, height=256, on_step=lambda _: torch.empty(too_much, device=device))

    after = draw(model)
    assert after.watch.warnings == []
    assert after.watch.restart_reasons == []
    assert np.array_equal(after.pixels, before)


def close(one: Any, other: Any) -> bool:
    return bool(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean() < 1)


@pytest.mark.parametrize("images", [1, 4, 8])
def test_images_made_in_one_go_are_those_that_are_made_alone(images: int, device: str, tmp_path: Path) -> None:
    model = loaded(tiny.save_sdxl(tmp_path), device=device, max_batch_size=8)

    together = draw(model, num_images=images)

    assert together.counted == [(1, 2), (2, 2)]
    for index, image in enumerate(together.images):
        # The device chooses how to compute by how many there are, and rounds accordingly.
        assert close(image, draw(model, seed=1 + index).images[0])


def test_compiled_code_draws_the_same_and_is_used_for_its_sizes_alone(
    device: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device == "cpu":
        # All but the C++ compiler, which takes half a minute.
        compile_blocks = UNet2DConditionModel.compile_repeated_blocks
        monkeypatch.setattr(
            UNet2DConditionModel,
            "compile_repeated_blocks",
            lambda unet, **options: compile_blocks(unet, backend="aot_eager", **options),
        )
    folder = tiny.save_sd(tmp_path)
    plain = loaded(folder, device=device, dtype=DTYPES[device])
    try:
        with caplog.at_level("INFO", "worker"):
            model = loaded(folder, device=device, dtype=DTYPES[device], optimize="max", compile_sizes=("64x64",))
        assert "compiled for 64x64" in caplog.text
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for size in ({}, {"num_images": 4}, {"width": 96, "height": 128}):
            pairs = zip(draw(model, **size).images, draw(plain, **size).images, strict=True)
            assert all(close(*pair) for pair in pairs)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    finally:
        torch.compiler.set_stance("default")
        torch.compiler.reset()
