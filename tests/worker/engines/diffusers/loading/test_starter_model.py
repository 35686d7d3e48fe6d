"""Images of the bundled model, through HTTP."""

import base64
import io

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.images.image_checks import Pixels, corners, middle, opened, pixels, shows_a_red_heart_on_blue
from tests.worker.new_jobs import image_bytes, run_job, start_job, submit_job

QUICK = {**RED_HEART, "num_inference_steps": 8}
COLOURS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def heart(sd: Stack) -> Pixels:
    return pixels(image_bytes(sd, run_job(sd, **RED_HEART)))


@pytest.fixture(scope="module")
def quick(sd: Stack) -> Pixels:
    """The image of QUICK."""
    return pixels(image_bytes(sd, run_job(sd, **QUICK)))


def test_a_red_heart_on_blue_is_a_red_heart_on_blue(heart: Pixels) -> None:
    assert shows_a_red_heart_on_blue(heart)


def test_a_yellow_star_on_green_is_a_yellow_star_on_green(sd: Stack) -> None:
    image = pixels(image_bytes(sd, run_job(sd, prompt="a yellow star on a green background", seed=1)))

    (star_red, star_green, star_blue), (ground_red, ground_green, ground_blue) = middle(image), corners(image)
    assert min(star_red, star_green) > 2 * star_blue
    assert ground_green > 1.5 * max(ground_red, ground_blue)


def test_the_same_request_gives_the_same_pixels(sd: Stack, quick: Pixels) -> None:
    assert np.array_equal(pixels(image_bytes(sd, run_job(sd, **QUICK))), quick)


def test_image_i_is_the_image_of_seed_plus_i(sd: Stack, quick: Pixels) -> None:
    pair, single = run_job(sd, **QUICK, num_images=2), run_job(sd, **{**QUICK, "seed": 43})

    alone = pixels(image_bytes(sd, single))
    assert [image["seed"] for image in pair["images"]] == [42, 43]
    assert np.array_equal(pixels(image_bytes(sd, pair, 0)), quick)
    assert np.array_equal(pixels(image_bytes(sd, pair, 1)), alone)
    assert not np.array_equal(alone, quick)


def test_queued_jobs_run_in_as_few_batches_as_possible_and_get_the_same_pixels(sd: Stack) -> None:
    # Keeps the worker busy until all the others are queued.
    start_job(sd, **{**QUICK, "num_inference_steps": 60}, width=64, height=64)
    short = {**QUICK, "num_inference_steps": 2}
    jobs = [submit_job(sd, **{**short, "prompt": f"a {COLOURS[seed % 4]} star", "seed": seed}) for seed in range(8)]

    batched = [sd.api.wait_until_done(job_id) for job_id in jobs]

    assert [job["timings"]["batch_size"] for job in batched] == [4] * 8
    alone = run_job(sd, **{**short, "prompt": f"a {COLOURS[2]} star", "seed": 6})
    assert np.array_equal(pixels(image_bytes(sd, batched[6])), pixels(image_bytes(sd, alone)))


def test_a_negative_prompt_changes_the_image(sd: Stack, quick: Pixels) -> None:
    job = run_job(sd, **QUICK, negative_prompt="red")

    assert job["warnings"] == []
    assert not np.array_equal(pixels(image_bytes(sd, job)), quick)


def test_an_image_may_be_larger_than_the_default_size(sd: Stack) -> None:
    job = run_job(sd, **{**QUICK, "num_inference_steps": 2}, width=256, height=192)

    assert opened(image_bytes(sd, job)).size == (256, 192)


def test_a_width_that_is_not_a_multiple_of_eight_is_refused(sd: Stack) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "width": 132})

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/width"]


@pytest.mark.parametrize("scheduler", ["pndm", "dpm++_2m_karras"])
def test_a_scheduler_that_spoils_the_model_is_not_offered(sd: Stack, scheduler: str) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "scheduler": scheduler})

    assert answer.status_code == 422


def as_png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(image: Pixels) -> str:
    return base64.b64encode(as_png(image)).decode()


def test_an_input_image_of_a_heart_becomes_the_requested_star(sd: Stack, heart: Pixels) -> None:
    form = {"prompt": "a yellow star on a blue background", "strength": "0.6", "seed": "42"}

    answer = requests.post(
        f"{sd.api.url}/api/img2img", data=form, files={"image": ("x.png", as_png(heart))}, timeout=60
    )

    assert answer.status_code == 200, answer.text
    job = answer.json()
    star = pixels(image_bytes(sd, job))
    red, green, blue = middle(star)
    assert min(red, green) > 2 * blue
    assert corners(star)[2] > 1.5 * max(corners(star)[:2])
    assert job["request"]["strength"] == 0.6


def test_pixels_outside_the_mask_are_unchanged(sd: Stack, heart: Pixels) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255

    job = run_job(
        sd, prompt="a green apple on a blue background", image=encoded(heart), mask=encoded(mask), num_inference_steps=8
    )

    image = pixels(image_bytes(sd, job))
    assert np.array_equal(image[:, :64], heart[:, :64])
    (_, green, _), (before, _, _) = image[40:90, 70:90].mean((0, 1)), heart[40:90, 70:90].mean((0, 1))
    assert green > image[40:90, 70:90, 0].mean()
    assert before > 150


def test_info_says_why_images_are_not_checked(sd: Stack) -> None:
    assert sd.api.get("/info").json()["safety"] == {
        "sd": "exempt: the starter model was trained on a closed set of pictograms"
    }


def test_an_unknown_lora_is_refused(sd: Stack) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "loras": [{"name": "fine"}]})

    assert answer.status_code == 422
    detail = "is unknown: SD_LORA_DIR contains no LoRAs"
    assert answer.json()["errors"] == [{"pointer": "/loras/0/name", "detail": detail}]


@pytest.mark.parametrize("name", ["../fine", "/etc/passwd", "a/b", "", "fine\n"])
def test_a_lora_cannot_be_named_by_a_path(sd: Stack, name: str) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "loras": [{"name": name}]})

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/loras/0/name"]
