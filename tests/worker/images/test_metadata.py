"""What an image's file tells of how it was made."""

import json

import pytest

from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.images.looking import idat, opened, pixels, shows_a_red_heart_on_blue
from tests.worker.new_jobs import image_bytes, run_job

QUICK = {**RED_HEART, "num_inference_steps": 8}
LOSSY = pytest.mark.parametrize("output_format", ["jpeg", "webp"])


def test_a_png_tells_its_parameters_as_other_tools_read_them(sd: Stack) -> None:
    job = run_job(sd, **QUICK)

    first, last = opened(image_bytes(sd, job)).info["parameters"].split("\n")
    assert first == RED_HEART["prompt"]
    assert last.startswith("Steps: 8, CFG scale: 4.0, Seed: 42, Size: 128x128, Model: starter, Version: imagegen ")


def test_a_png_tells_which_job_made_it_and_how(sd: Stack) -> None:
    job = run_job(sd, **QUICK, label="mine", metadata={"secret": 1})

    recipe = json.loads(opened(image_bytes(sd, job)).info["imagegen"])
    assert recipe == {
        "request": job["request"],
        "seed": 42,
        "backend": "sd",
        "model": "starter",
        "job": job["id"],
        "version": recipe["version"],
    }


def test_a_png_can_be_made_again_from_what_it_tells(sd: Stack) -> None:
    file = image_bytes(sd, run_job(sd, prompt="a green tree", num_inference_steps=4))

    again = image_bytes(sd, run_job(sd, **json.loads(opened(file).info["imagegen"])["request"]))
    assert idat(again) == idat(file)


@LOSSY
def test_other_formats_show_the_same_image(sd: Stack, output_format: str) -> None:
    job = run_job(sd, **QUICK, output_format=output_format)

    image = opened(image_bytes(sd, job))
    assert (image.format, image.size) == (output_format.upper(), (128, 128))
    assert shows_a_red_heart_on_blue(pixels(image_bytes(sd, job)))


@LOSSY
def test_other_formats_tell_their_parameters_in_the_user_comment(sd: Stack, output_format: str) -> None:
    job = run_job(sd, **QUICK, output_format=output_format)

    comment = opened(image_bytes(sd, job)).getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    assert comment[8:].decode("utf-16-be").startswith(f"{RED_HEART['prompt']}\nSteps: 8, ")
