"""Weights in eight and four bits: SD_QUANTIZE."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import ConfigurationError, InvalidRequest
from shared.settings.explanations import install_command
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.diffusers.flux.klein import full_size, in_bfloat16, save_klein
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.memory import placement, quantization
from worker.engines.diffusers.memory.quantization import quantize
from worker.models.placements import WORKING_BYTES, Quantization

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|torchao)")

GB = 10**9
CUDA = torch.device("cuda")
NEEDS_TORCHAO = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason=install_command("quantize"))


@pytest.fixture(scope="module")
def full_klein() -> Any:
    """7.75 GB of transformer, 8.04 GB of text encoder, without memory."""
    with in_bfloat16(), torch.device("meta"):
        return full_size()


def _size(engine: Any) -> int:
    return sum(engine.sizes.values())


@pytest.mark.parametrize(
    ("free", "has_torchao", "step"),
    [
        (24, True, Quantization.NONE),
        (16, True, Quantization.FP8),
        (16, False, Quantization.FP8),
        (12.5, True, Quantization.EIGHT_BIT),
        (9, True, Quantization.FOUR_BIT),
        (12.5, False, Quantization.NONE),
        (6, True, Quantization.NONE),
    ],
)
def test_auto_takes_the_first_step_with_which_all_of_a_model_fits(
    full_klein: Any, free: float, has_torchao: bool, step: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object() if has_torchao else None)
    working = dict.fromkeys(("transformer", "text_encoder", "vae"), WORKING_BYTES)
    monkeypatch.setattr(quantization, "_apply", lambda *_: None)

    assert quantize(full_klein, "transformer", "auto", CUDA, int(free * GB), working, lambda _: None) is step


def test_fp8_halves_the_denoiser_and_draws_nearly_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save_sd(tmp_path / "model")
    tiny.save_lora(tmp_path / "loras", "one", folder)
    usual = loaded(folder, lora_dir=tmp_path / "loras")
    monkeypatch.setattr(quantization, "choose_quantization", lambda *_: (Quantization.FP8, {}))

    cast = loaded(folder, lora_dir=tmp_path / "loras", quantize="auto")

    assert (usual.placement, cast.placement) == ("resident", "resident, fp8")
    unet = [weight for weight in cast._pipelines.denoiser.parameters() if weight.dtype is torch.float8_e4m3fn]
    assert sum(weight.nbytes for weight in unet) * 4 > _size(usual) - _size(cast) > 0
    assert cast.fingerprint() != usual.fingerprint()
    one, other = (draw(engine).images[0].pixels.astype(float) for engine in (usual, cast))
    assert 0 < np.abs(one - other).mean() < 24
    with pytest.raises(InvalidRequest, match=r"LoRAs cannot be used with .*: its weights are stored as fp8"):
        draw(cast, loras=[{"name": "one"}])


def test_off_and_a_model_that_fits_keep_every_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.save_sd(tmp_path)
    monkeypatch.setattr(placement, "free_bytes", lambda _: 1 << 40)
    off, auto = (draw(loaded(folder, quantize=setting)).images[0].pixels for setting in ("off", "auto"))

    assert np.array_equal(off, auto)


def test_a_missing_library_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "torchao" else find(name, *more)
    )

    with pytest.raises(ConfigurationError, match=r"SD_QUANTIZE=8bit needs the package torchao: .*quantize"):
        loaded(tiny.save_sd(tmp_path), quantize="8bit")


def test_four_bits_need_an_nvidia_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())

    with pytest.raises(ConfigurationError, match="SD_QUANTIZE=4bit needs an NVIDIA GPU"):
        loaded(tiny.save_sd(tmp_path), quantize="4bit")


@NEEDS_TORCHAO
def test_eight_bits_shrink_denoiser_and_text_encoder_and_draw_nearly_the_same(tmp_path: Path) -> None:
    folder = save_klein(tmp_path)
    usual, quantized = loaded(folder), loaded(folder, quantize="8bit")

    assert quantized.placement == "resident, 8bit"
    assert _size(quantized) < 0.6 * _size(usual)
    one, other = (draw(engine).images[0].pixels.astype(float) for engine in (usual, quantized))
    assert np.abs(one - other).mean() < 24
