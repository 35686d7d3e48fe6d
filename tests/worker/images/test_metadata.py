"""Metadata in image files, which says how to generate the image again."""

import json
from typing import Any

import pytest

from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.images.image_checks import idat, opened, pixels, shows_a_red_heart_on_blue
from tests.worker.new_jobs import image_bytes, run_job

QUICK = {**RED_HEART, "num_inference_steps": 8}


@pytest.fixture(scope="module")
def job(sd: Stack) -> dict[str, Any]:
    return run_job(sd, **QUICK, label="mine", metadata={"secret": 1})


def test_a_png_holds_its_parameters_for_other_tools(sd: Stack, job: dict[str, Any]) -> None:
    first, last = opened(image_bytes(sd, job)).info["parameters"].split("\n")
    assert first == RED_HEART["prompt"]
    assert last.startswith("Steps: 8, CFG scale: 4.0, Seed: 42, Size: 128x128, Model: starter, Version: imagegen ")


def test_a_png_holds_its_job_and_request(sd: Stack, job: dict[str, Any]) -> None:
    recipe = json.loads(opened(image_bytes(sd, job)).info["imagegen"])
    assert recipe == {
        "request": job["request"],
        "seed": 42,
        "backend": "sd",
        "model": "starter",
        "job": job["id"],
        "version": recipe["version"],
    }


def test_a_png_can_be_reproduced_from_its_metadata(sd: Stack, job: dict[str, Any]) -> None:
    file = image_bytes(sd, job)

    again = image_bytes(sd, run_job(sd, **json.loads(opened(file).info["imagegen"])["request"]))
    assert idat(again) == idat(file)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_other_formats_hold_the_same_image_and_parameters_in_the_user_comment(sd: Stack, output_format: str) -> None:
    file = image_bytes(sd, run_job(sd, **QUICK, output_format=output_format))

    image = opened(file)
    comment = image.getexif().get_ifd(0x8769)[0x9286]
    assert (image.format, image.size) == (output_format.upper(), (128, 128))
    assert shows_a_red_heart_on_blue(pixels(file))
    assert comment.startswith(b"UNICODE\0")
    assert comment[8:].decode("utf-16-be").startswith(f"{RED_HEART['prompt']}\nSteps: 8, ")
