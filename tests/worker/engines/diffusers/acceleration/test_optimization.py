"""SD_OPTIMIZE: which levels change pixels, and what happens without a compiler."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._inductor import config

from shared.errors import ConfigurationError
from shared.jobs.requests import GenerationRequest
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw
from tests.worker.images.image_checks import shows_a_red_heart_on_blue
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.memory.devices import computes_bfloat16
from worker.engines.diffusers.options import Level

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")

HEART = {"prompt": "a red heart on a blue background", "seed": 42, "num_inference_steps": 8}
SMALL = GenerationRequest(prompt="x", width=64, height=64)


def test_safe_changes_no_pixel(starter: DiffusersEngine) -> None:
    off = loaded("starter", level=Level.OFF)

    request = {**HEART, "num_inference_steps": 2, "num_images": 3}

    first, again = draw(starter, **request), draw(starter, **request)

    plain = draw(off, **request)
    assert off.batch_capacity(SMALL) == 1
    assert starter.batch_capacity(SMALL) == 4
    for images in zip(plain.images, first.images, again.images, strict=True):
        assert all(np.array_equal(images[0].pixels, image.pixels) for image in images)


def test_max_uses_bfloat16_if_the_processor_supports_it() -> None:
    model = loaded("starter", level=Level.MAX)

    assert model.dtype == ("bfloat16" if computes_bfloat16() else "float32")
    assert shows_a_red_heart_on_blue(draw(model, **HEART).pixels)


def test_max_keeps_a_configured_precision() -> None:
    assert loaded("starter", level=Level.MAX, dtype="float32").dtype == "float32"


@pytest.mark.parametrize("size", ["100x100", "10x9999"])
def test_a_size_that_the_model_does_not_support_stops_the_worker(size: str) -> None:
    with pytest.raises(ConfigurationError, match=f"SD_COMPILE_SIZES has {size}, a size that the model"):
        loaded("starter", level=Level.MAX, compile_sizes=(size,))


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),), "force_disable_caches": True}):
        yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler_the_model_runs_uncompiled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny.save_sd(tmp_path / "model")
    before = draw(loaded(folder, dtype="float32")).pixels

    with caplog.at_level(logging.WARNING, "worker"):
        model = loaded(folder, level=Level.MAX, dtype="float32", compile_sizes=("64x64",))

    assert (
        "SD_COMPILE_SIZES has no effect, the model runs uncompiled; is there a C++ compiler? No working C++ compiler"
    ) in caplog.text
    assert np.array_equal(draw(model).pixels, before)
