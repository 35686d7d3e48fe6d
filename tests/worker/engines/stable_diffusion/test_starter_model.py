"""What the bundled model makes of prompts, through HTTP."""

import base64
import io

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.worker.images.looking import Pixels, corners, middle, opened, pixels, shows_a_red_heart_on_blue
from tests.worker.new_jobs import image_bytes, run_job, start_job, submit_job

QUICK = {**RED_HEART, "num_inference_steps": 8}


def test_a_red_heart_on_blue_is_a_red_heart_on_blue(sd: Stack) -> None:
    job = run_job(sd, **RED_HEART)

    assert shows_a_red_heart_on_blue(pixels(image_bytes(sd, job)))


def test_a_yellow_star_on_green_is_a_yellow_star_on_green(sd: Stack) -> None:
    image = pixels(image_bytes(sd, run_job(sd, prompt="a yellow star on a green background", seed=1)))

    (star_red, star_green, star_blue), (ground_red, ground_green, ground_blue) = middle(image), corners(image)
    assert min(star_red, star_green) > 2 * star_blue
    assert ground_green > 1.5 * max(ground_red, ground_blue)


def test_the_same_request_gives_the_same_pixels(sd: Stack) -> None:
    first, second = run_job(sd, **QUICK), run_job(sd, **QUICK)

    assert np.array_equal(pixels(image_bytes(sd, first)), pixels(image_bytes(sd, second)))


def test_another_seed_gives_another_image(sd: Stack) -> None:
    first, second = run_job(sd, **QUICK), run_job(sd, **{**QUICK, "seed": 43})

    assert not np.array_equal(pixels(image_bytes(sd, first)), pixels(image_bytes(sd, second)))


def test_image_i_is_the_image_of_seed_plus_i(sd: Stack) -> None:
    pair, single = run_job(sd, **QUICK, num_images=2), run_job(sd, **{**QUICK, "seed": 43})

    second, alone = pixels(image_bytes(sd, pair, 1)), pixels(image_bytes(sd, single))
    assert [image["seed"] for image in pair["images"]] == [42, 43]
    assert np.array_equal(second, alone)


def test_jobs_in_line_are_made_in_as_few_goes_as_they_can_and_get_the_same_pixels(sd: Stack) -> None:
    # Keeps the worker busy until all the others are queued.
    start_job(sd, **{**QUICK, "num_inference_steps": 60})
    jobs = [submit_job(sd, **{**QUICK, "prompt": f"a {COLOURS[seed % 4]} star", "seed": seed}) for seed in range(8)]

    together = [sd.api.wait_until_done(job_id) for job_id in jobs]

    assert [job["timings"]["batch_size"] for job in together] == [4] * 8
    alone = run_job(sd, **{**QUICK, "prompt": f"a {COLOURS[2]} star", "seed": 6})
    assert np.array_equal(pixels(image_bytes(sd, together[6])), pixels(image_bytes(sd, alone)))


COLOURS = ("red", "green", "blue", "yellow")


def test_a_negative_prompt_changes_the_image(sd: Stack) -> None:
    with_it, without = run_job(sd, **QUICK, negative_prompt="red"), run_job(sd, **QUICK)

    assert with_it["warnings"] == []
    assert not np.array_equal(pixels(image_bytes(sd, with_it)), pixels(image_bytes(sd, without)))


def test_a_image_may_be_larger_than_the_models_own_size(sd: Stack) -> None:
    job = run_job(sd, **{**QUICK, "num_inference_steps": 2}, width=256, height=192)

    assert opened(image_bytes(sd, job)).size == (256, 192)


def test_a_width_that_is_no_multiple_of_eight_is_refused(sd: Stack) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "width": 132})

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/width"]


@pytest.mark.parametrize("scheduler", ["pndm", "dpm++_2m_karras"])
def test_a_scheduler_that_spoils_the_model_is_not_offered(sd: Stack, scheduler: str) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "scheduler": scheduler})

    assert answer.status_code == 422


def encoded(image: Pixels) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_image_that_begins_with_a_heart_becomes_the_star_that_was_asked_for(sd: Stack) -> None:
    heart = image_bytes(sd, run_job(sd, **RED_HEART))
    form = {"prompt": "a yellow star on a blue background", "strength": "0.6", "seed": "42"}

    answer = requests.post(f"{sd.api.url}/api/img2img", data=form, files={"image": ("x.png", heart)}, timeout=60)

    assert answer.status_code == 200, answer.text
    job = answer.json()
    star = pixels(image_bytes(sd, job))
    red, green, blue = middle(star)
    assert min(red, green) > 2 * blue
    assert corners(star)[2] > 1.5 * max(corners(star)[:2])
    assert job["request"]["strength"] == 0.6


def test_what_lies_outside_of_the_mask_is_delivered_as_it_came(sd: Stack) -> None:
    heart = pixels(image_bytes(sd, run_job(sd, **RED_HEART)))
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


def test_the_service_says_that_its_images_are_not_checked_and_why(sd: Stack) -> None:
    assert sd.api.get("/info").json()["safety"] == {
        "sd": "exempt: the starter model was trained on a closed set of pictograms"
    }


def test_a_lora_that_nobody_has_is_refused(sd: Stack) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "loras": [{"name": "fine"}]})

    assert answer.status_code == 422
    detail = "is not known: there are no LoRAs in SD_LORA_DIR"
    assert answer.json()["errors"] == [{"pointer": "/loras/0/name", "detail": detail}]


@pytest.mark.parametrize("name", ["../fine", "/etc/passwd", "a/b", "", "fine\n"])
def test_a_lora_is_never_named_by_a_path(sd: Stack, name: str) -> None:
    answer = sd.api.post("/api/txt2img", {**RED_HEART, "loras": [{"name": name}]})

    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/loras/0/name"]
