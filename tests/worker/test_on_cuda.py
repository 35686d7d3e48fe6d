"""The same on a GPU: half precision, and a device whose memory really ends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from shared.errors import OutOfMemory
from tests.worker import tiny
from tests.worker.conftest import loaded
from tests.worker.drawing import draw, right_half, speckled
from worker.backends.base import Inputs
from worker.backends.stable_diffusion import StableDiffusion

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)"),
]

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd": tiny.save_sd,
    "sd2": tiny.save_sd2,
    "sdxl": tiny.save_sdxl,
    "lcm": tiny.save_lcm,
    "inpainting": tiny.save_inpainting,
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return loaded(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)), device="auto")


def test_models_run_in_half_precision(model: StableDiffusion) -> None:
    assert (torch.device(model.device).type, model.dtype) == ("cuda", "float16")


def test_the_same_request_gives_the_same_pixels(model: StableDiffusion) -> None:
    first, second = draw(model, num_images=2), draw(model, num_images=2)

    assert first.watch.warnings == []
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first.pictures, second.pictures, strict=True))


def test_outside_of_the_mask_every_pixel_stays(model: StableDiffusion) -> None:
    picture = draw(model, Inputs((speckled(),), right_half())).pixels

    assert np.array_equal(picture[:, :32], speckled()[:, :32])


def test_a_picture_that_fits_with_an_idle_half_outside_is_made_so(
    model: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = draw(model).pixels
    forward, calls = UNet2DConditionModel.forward, iter([True])

    def full_once(*args: Any, **kwargs: Any) -> Any:
        if next(calls, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", full_once)

    relieved = draw(model)

    assert relieved.watch.warnings[-1] == "memory was short: idle parts of the model waited in main memory"
    assert np.array_equal(relieved.pixels, before)
    after = draw(model)
    assert after.watch.warnings == []
    assert np.array_equal(after.pixels, before)


@contextmanager
def crowded(spare_bytes: int) -> Iterator[None]:
    """A device on which this process may have so much more than it has."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + spare_bytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_memory_that_really_ends_fails_one_job_and_no_other(tmp_path: Path) -> None:
    model = loaded(tiny.save_sd(tmp_path), device="cuda")
    before = draw(model).pixels

    with crowded(64 << 20), pytest.raises(OutOfMemory, match="64x64 should fit"):
        draw(model, width=256, height=256, on_step=lambda _: torch.empty(1 << 30, device="cuda"))

    after = draw(model)
    assert after.watch.warnings == []
    assert after.watch.retired == []
    assert np.array_equal(after.pixels, before)


def close(one: Any, other: Any) -> bool:
    return bool(np.abs(one.pixels.astype(int) - other.pixels.astype(int)).mean() < 1)


@pytest.mark.parametrize("pictures", [1, 4, 8])
def test_pictures_made_in_one_go_are_those_that_are_made_alone(pictures: int, tmp_path: Path) -> None:
    model = loaded(tiny.save_sdxl(tmp_path), device="cuda", max_batch_size=8)

    together = draw(model, num_images=pictures)

    assert together.counted == [(1, 2), (2, 2)]
    for index, picture in enumerate(together.pictures):
        # The device chooses how to compute by how many there are, and rounds accordingly.
        assert close(picture, draw(model, seed=1 + index).pictures[0])


def test_compiled_code_draws_the_same_and_is_used_for_its_sizes_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny.save_sd(tmp_path)
    plain = loaded(folder, device="cuda")
    try:
        with caplog.at_level("INFO", "worker"):
            model = loaded(folder, device="cuda", optimize="max", compile_sizes=("64x64",))
        assert "compiled for 64x64" in caplog.text
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for size in ({}, {"num_images": 4}, {"width": 96, "height": 128}):
            pairs = zip(draw(model, **size).pictures, draw(plain, **size).pictures, strict=True)
            assert all(close(*pair) for pair in pairs)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    finally:
        torch.compiler.set_stance("default")
        torch.compiler.reset()
