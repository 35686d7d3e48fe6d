"""What is read from a model: how it likes to be asked."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shared.errors import ConfigurationError
from tests.worker.conftest import loaded
from tests.worker.engines import tiny
from tests.worker.engines.drawing import draw
from worker.engines.diffusers.stable_diffusion.schedulers import SCHEDULERS

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
def test_size_steps_and_guidance_are_those_of_the_model(
    save: Callable[[Path], Path], side: int, steps: int, guidance: float, tmp_path: Path
) -> None:
    model = loaded(save(tmp_path / "model"))

    told = model.capabilities
    assert (told.width, told.height, told.num_inference_steps, told.guidance_scale) == (side, side, steps, guidance)
    assert draw(model).pixels.shape == (side, side, 3)


def test_a_model_that_predicts_velocities_is_taken_at_its_word(tmp_path: Path) -> None:
    velocities, noise = (
        draw(loaded(tiny.save_sd2(tmp_path / kind, kind)), scheduler="euler").pixels
        for kind in ("v_prediction", "epsilon")
    )

    assert not np.array_equal(velocities, noise)


def test_a_consistency_model_has_its_own_scheduler_alone(tmp_path: Path) -> None:
    told = loaded(tiny.save_lcm(tmp_path)).capabilities

    assert told.schedulers == ("lcm",)
    assert told.max_steps == 50
    assert "negative_prompt" in told.ignored


def test_other_models_have_every_scheduler(tmp_path: Path) -> None:
    assert loaded(tiny.save_sd(tmp_path)).capabilities.schedulers == tuple(SCHEDULERS)


def test_a_model_folder_may_say_how_it_likes_to_be_used(tmp_path: Path) -> None:
    tiny.save_sd(tmp_path)
    (tmp_path / "imagegen.json").write_text(json.dumps({"num_inference_steps": 8, "strength": 0.5}))

    told = loaded(tmp_path).capabilities

    assert (told.num_inference_steps, told.guidance_scale, told.strength) == (8, 7.5, 0.5)


@pytest.mark.parametrize(
    ("text", "reason"), [('{"num_inference_steps": 900}', "num_inference_steps"), ("{", "Invalid JSON"), ("[]", "")]
)
def test_a_folder_that_says_nonsense_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    tiny.save_sd(tmp_path)
    (tmp_path / "imagegen.json").write_text(text)

    with pytest.raises(ConfigurationError, match=f"The imagegen.json of .* is wrong: .*{reason}"):
        loaded(tmp_path)


def test_weights_that_are_there_in_half_precision_only_are_loaded(tmp_path: Path) -> None:
    tiny.save_sd(tmp_path)
    for weights in tmp_path.glob("*/*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))

    assert loaded(tmp_path).dtype == "float32"
