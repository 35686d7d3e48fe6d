"""What a model would be on a device, by SD_QUANTIZE: as the engine decides when it is loaded."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from worker.models.catalogue.prospects import Prospect, prospect_of
from worker.models.placements import Placement, Quantization
from worker.models.sources import ModelSource

GB = 10**9


@pytest.fixture
def klein(monkeypatch: pytest.MonkeyPatch) -> Prospect:
    """FLUX.2 Klein 4B: 7.75 GB of transformer and 8.04 GB of text encoder in half precision. torchao is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: object())
    starter = prospect_of(ModelSource("The name", "starter", Path("unused")))
    parameters = {"transformer": 3.875e9, "text_encoder": 4.02e9, "vae": 0.084e9}
    return replace(starter, parameters=parameters, denoiser="transformer")


@pytest.mark.parametrize(
    ("free", "step", "placement"),
    [
        (24, Quantization.NONE, Placement.RESIDENT),
        (16, Quantization.FP8, Placement.RESIDENT),
        (12.5, Quantization.EIGHT_BIT, Placement.RESIDENT),
        (9, Quantization.FOUR_BIT, Placement.RESIDENT),
        (6, Quantization.NONE, Placement.GROUP_OFFLOAD),
    ],
)
def test_auto_takes_the_step_that_the_engine_takes(
    klein: Prospect, free: float, step: Quantization, placement: Placement
) -> None:
    held = klein.on_device("bfloat16", "auto", "cuda", int(free * GB))

    assert (held.quantization, held.placement, held.obstacles) == (step, placement, {})
    assert sum(held.sizes.values()) < free * GB or placement is not Placement.RESIDENT


def test_off_keeps_the_precision_and_parts_wait_in_main_memory(klein: Prospect) -> None:
    held = klein.on_device("bfloat16", "off", "cuda", 12 * GB)

    assert (held.quantization, held.placement) == (Quantization.NONE, Placement.MODEL_OFFLOAD)
    assert held.sizes["transformer"] == 7.75 * GB


def test_a_setting_holds_whether_or_not_all_of_it_fits(klein: Prospect) -> None:
    held = klein.on_device("bfloat16", "8bit", "cuda", 100 * GB)

    assert held.quantization is Quantization.EIGHT_BIT
    assert held.sizes["vae"] == 0.168 * GB
    assert held.sizes["text_encoder"] == pytest.approx(4.02 * 1.02 * GB)


@pytest.mark.parametrize(
    ("quantize", "device", "precision", "reason"),
    [
        ("4bit", "cpu", "float32", "needs an NVIDIA GPU; 8bit works everywhere"),
        ("4bit", "cuda", "float16", "needs SD_DTYPE=bfloat16"),
    ],
)
def test_what_a_setting_needs_is_told(klein: Prospect, quantize: str, device: str, precision: str, reason: str) -> None:
    held = klein.on_device(precision, quantize, device, None)

    assert held.obstacles == {Quantization.FOUR_BIT: reason}


def test_a_missing_library_is_told_where_it_would_help(klein: Prospect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)

    held = klein.on_device("bfloat16", "auto", "cuda", int(12.5 * GB))

    assert (held.quantization, held.placement) == (Quantization.NONE, Placement.MODEL_OFFLOAD)
    assert set(held.obstacles) == {Quantization.EIGHT_BIT, Quantization.FOUR_BIT}


def test_weights_that_are_compressed_stay_as_small_as_they_are(klein: Prospect) -> None:
    compressed = replace(klein, is_compressed=True)

    held = compressed.on_device("bfloat16", "8bit", "cuda", 100 * GB)

    assert held.sizes["transformer"] == 7.75 * GB
    auto = compressed.on_device("bfloat16", "auto", "cuda", 16 * GB)
    assert auto.quantization is Quantization.EIGHT_BIT
