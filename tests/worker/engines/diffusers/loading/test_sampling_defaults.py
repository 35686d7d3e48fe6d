"""Defaults that come from the model: size, steps, guidance and schedulers."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigurationError
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.denoising.schedulers import SCHEDULERS

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch)")


@pytest.mark.parametrize(
    ("save", "side", "steps", "guidance"),
    [
        (tiny.save_sd, 64, 25, 7.5),
        (tiny.save_sd2, 96, 25, 7.5),
        (tiny.save_sdxl, 64, 25, 5.0),
        (tiny.save_turbo, 64, 4, 0.0),
        (tiny.save_lcm, 64, 4, 8.5),
        (tiny.save_inpainting, 64, 25, 7.5),
    ],
    ids=["sd", "sd2", "sdxl", "turbo", "lcm", "inpainting"],
)
def test_size_steps_and_guidance_come_from_the_model(
    save: Callable[[Path], Path], side: int, steps: int, guidance: float, tmp_path: Path
) -> None:
    model = loaded(save(tmp_path / "model"))

    capabilities = model.capabilities
    defaults = (capabilities.num_inference_steps, capabilities.guidance_scale)
    assert (capabilities.width, capabilities.height, *defaults) == (side, side, steps, guidance)
    assert draw(model).pixels.shape == (side, side, 3)


def test_the_prediction_type_comes_from_the_model(tmp_path: Path) -> None:
    velocities, noise = (
        draw(loaded(tiny.save_sd2(tmp_path / kind, kind)), scheduler="euler").pixels
        for kind in ("v_prediction", "epsilon")
    )

    assert not np.array_equal(velocities, noise)


def test_a_consistency_model_offers_only_its_own_scheduler(tmp_path: Path) -> None:
    capabilities = loaded(tiny.save_lcm(tmp_path)).capabilities

    assert capabilities.schedulers == ("lcm",)
    assert capabilities.max_steps == 50
    assert "negative_prompt" in capabilities.ignored


def test_other_models_offer_every_scheduler(tmp_path: Path) -> None:
    assert loaded(tiny.save_sd(tmp_path)).capabilities.schedulers == tuple(SCHEDULERS)


def test_a_model_folder_may_override_the_defaults(tmp_path: Path) -> None:
    tiny.save_sd(tmp_path)
    (tmp_path / "imagegen.json").write_text(json.dumps({"num_inference_steps": 8, "strength": 0.5}))

    capabilities = loaded(tmp_path).capabilities

    assert (capabilities.num_inference_steps, capabilities.strength) == (8, 0.5)
    assert capabilities.guidance_scale == 7.5


@pytest.mark.parametrize(
    ("text", "reason"), [('{"num_inference_steps": 900}', "num_inference_steps"), ("{", "Invalid JSON"), ("[]", "")]
)
def test_invalid_overrides_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    tiny.save_sd(tmp_path)
    (tmp_path / "imagegen.json").write_text(text)

    with pytest.raises(ConfigurationError, match=f"The imagegen.json of .* is invalid: .*{reason}"):
        loaded(tmp_path)


def test_weights_that_exist_only_in_half_precision_are_loaded(tmp_path: Path) -> None:
    tiny.save_sd(tmp_path)
    for weights in tmp_path.glob("*/*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))

    assert loaded(tmp_path).dtype == "float32"
