"""The `parameters` text in image files: other tools read it."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from tests.worker.images.image_checks import opened
from worker.images.encoder import Encoder
from worker.images.values import RenderedImage

PIXELS = np.zeros((96, 128, 3), np.uint8)
USED: dict[str, Any] = {"num_inference_steps": 20, "scheduler": "euler_a", "guidance_scale": 4}


def parameters(*, model: str = "starter", **fields: Any) -> str:
    request = GenerationRequest(prompt="a cat, red: yes", **fields)
    job = Job.new(request, Backend.SD, datetime.now(UTC)).start(model, "worker", datetime.now(UTC))
    text: str = opened(Encoder("0.1.0").encode(RenderedImage(PIXELS, seed=42), job)).info["parameters"]
    return text


def test_parameters_have_the_format_of_the_web_ui() -> None:
    assert parameters(**USED, negative_prompt="dog, blur") == (
        "a cat, red: yes\n"
        "Negative prompt: dog, blur\n"
        "Steps: 20, Sampler: Euler a, Schedule type: Automatic, CFG scale: 4.0, Seed: 42, Size: 128x96, "
        "Model: starter, Version: imagegen 0.1.0"
    )


@pytest.mark.parametrize("negative_prompt", [None, ""])
def test_parameters_leave_out_unset_values(negative_prompt: str | None) -> None:
    text = parameters(negative_prompt=negative_prompt)
    assert text == "a cat, red: yes\nSeed: 42, Size: 128x96, Model: starter, Version: imagegen 0.1.0"


@pytest.mark.parametrize(
    ("model", "written"),
    [
        ("a, b", '"a, b"'),
        ("C:starter", '"C:starter"'),
        ("two\nlines", r'"two\nlines"'),
        ('say "x", 猫', r'"say \"x\", 猫"'),
        ("plain name", "plain name"),
    ],
)
def test_values_with_punctuation_of_the_format_are_quoted(model: str, written: str) -> None:
    assert f"Model: {written}, Version:" in parameters(model=model)
