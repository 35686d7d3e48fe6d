"""POST /api/txt2img: generate images and wait for them."""

import base64
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from PIL import Image

from tests.api.conftest import image_file
from tests.api.problem import assert_problem
from tests.api.waiting import WaitingCaller
from tests.stack import Api, Stack

SIGNATURES = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff", "webp": b"RIFF"}


def generate(api: Api, accept: str = "*/*", prefer: str = "", **fields: Any) -> requests.Response:
    headers = {"Accept": accept, "Prefer": prefer}
    return api.post("/api/txt2img", {"prompt": "x", **fields}, headers=headers)


def pixels(answer: requests.Response) -> bytes:
    return Image.open(io.BytesIO(answer.content)).tobytes()


def test_the_answer_is_the_finished_job(api: Api) -> None:
    answer = generate(api, label="mine", metadata={"a": [1, None]}, width=80, height=48, seed=3)

    job = answer.json()
    assert (answer.status_code, job["state"], job["attempt"]) == (200, "succeeded", 1)
    assert (job["label"], job["metadata"]) == ("mine", {"a": [1, None]})
    assert job["request"]["seed"] == job["images"][0]["seed"] == 3
    assert (job["images"][0]["width"], job["images"][0]["height"]) == (80, 48)
    assert (job["progress"], job["queue_position"], job["error"], job["warnings"]) == (None, None, None, [])
    assert all(job["timings"][name] is not None for name in ("queued_ms", "generate_ms", "encode_ms", "total_ms"))
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert answer.headers["x-job-id"] == job["id"]


def test_the_image_at_its_url_has_the_recorded_digest(api: Api) -> None:
    image = generate(api).json()["images"][0]

    data = requests.get(image["url"], timeout=10).content

    assert (len(data), hashlib.sha256(data).hexdigest()) == (image["bytes"], image["sha256"])


def test_a_job_that_outlasts_the_wait_continues(api: Api) -> None:
    answer = generate(api, prefer="wait=1", metadata={"simulate": {"seconds": 3}})

    job = answer.json()
    assert (answer.status_code, job["state"]) == (202, "running")
    assert answer.headers["location"] == job["links"]["self"] == f"/api/jobs/{answer.headers['x-job-id']}"
    assert api.wait_until_done(job["id"])["state"] == "succeeded"


def test_wait_0_answers_immediately(api: Api) -> None:
    answer = generate(api, prefer="respond-async, wait=0", metadata={"simulate": {"seconds": 1}})

    assert answer.status_code == 202
    assert api.wait_until_done(answer.json()["id"])["state"] == "succeeded"


@pytest.fixture(scope="module")
def public(null: Stack) -> Api:
    """An API with a public URL and a short limit of waiting."""
    return null.start_api(SD_SYNC_TIMEOUT_SECONDS="1", SD_PUBLIC_URL="https://images.example.com/")


def test_the_operator_limits_the_wait(public: Api) -> None:
    answer = generate(public, prefer="wait=100", metadata={"simulate": {"seconds": 3}})

    assert answer.status_code == 202


@pytest.mark.parametrize("accept", ["image/png", "image/*", "image/webp, application/json;q=0"])
def test_a_caller_that_accepts_only_images_is_told_to_wait_again_for_the_same_job(api: Api, accept: str) -> None:
    headers = {"Accept": accept, "Idempotency-Key": f"waiting for {accept}".replace(" ", "-"), "Prefer": "wait=1"}
    body = {"prompt": "x", "metadata": {"simulate": {"seconds": 2.5}}}

    answers = [api.post("/api/txt2img", body, headers=headers)]
    while answers[-1].status_code == 503:
        answers.append(api.post("/api/txt2img", body, headers=headers))

    assert_problem(answers[0], 503, "not-finished")
    job_id = answers[0].json()["job_id"]
    assert answers[0].json()["retryable"]
    assert job_id in answers[0].json()["detail"]
    assert answers[-1].headers["content-type"].startswith("image/")
    assert {answer.headers["x-job-id"] for answer in answers} == {job_id}


def test_a_call_without_a_key_finds_its_job_when_it_is_repeated(api: Api) -> None:
    body = {"prompt": "repeated without a key", "metadata": {"simulate": {"seconds": 2}}}
    headers = {"Accept": "image/png", "Prefer": "wait=0"}
    first = api.post("/api/txt2img", body, headers=headers)

    assert_problem(first, 503, "not-finished")
    assert first.json()["retryable"]
    again = api.post("/api/txt2img", body, headers={"Accept": "image/png"})
    assert (again.status_code, again.headers["x-job-id"]) == (200, first.json()["job_id"])


def test_a_caller_that_accepts_json_too_gets_the_unfinished_job(api: Api) -> None:
    answer = generate(api, "image/png, application/json;q=0.5", "wait=0", metadata={"simulate": {"seconds": 1}})

    assert (answer.status_code, answer.headers["content-type"]) == (202, "application/json")


@pytest.mark.parametrize(
    ("accept", "output_format"),
    [
        ("image/png", "png"),
        ("image/webp", "webp"),
        ("image/*", "png"),
        ("image/avif, image/webp, */*;q=0.8", "webp"),
        ("application/json;q=0.4, image/jpeg;q=0.8", "jpeg"),
        ("application/json;q=0, IMAGE/PNG", "png"),
    ],
)
def test_accept_selects_image_bytes_and_their_format(api: Api, accept: str, output_format: str) -> None:
    answer = generate(api, accept)

    assert answer.headers["content-type"] == f"image/{output_format}"
    assert answer.content.startswith(SIGNATURES[output_format])
    assert answer.headers["x-seed"].isdigit()
    assert api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()["request"]["output_format"] == output_format


def test_output_format_selects_among_accepted_types(api: Api) -> None:
    answer = generate(api, "image/png, image/webp", output_format="webp")

    assert answer.content.startswith(SIGNATURES["webp"])


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "application/json, text/plain, */*",
        "image/png;q=0.5, application/json",
        "a/b,*/*",
    ],
)
def test_accept_can_prefer_json(api: Api, accept: str) -> None:
    assert generate(api, accept).json()["state"] == "succeeded"


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "application/json;q=0", "image/png;q=0.0"])
def test_an_unsupported_type_is_not_acceptable(api: Api, accept: str) -> None:
    answer = generate(api, accept)

    assert_problem(answer, 406, "not-acceptable")
    assert "image/png, image/jpeg, image/webp" in answer.json()["detail"]


def test_what_clients_write_for_jpeg_is_understood(api: Api) -> None:
    answer = generate(api, "text/html, image/jpg;q=0.5")

    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content.startswith(SIGNATURES["jpeg"])


def test_an_output_format_outside_accept_is_not_acceptable(api: Api) -> None:
    answer = generate(api, "image/png", output_format="jpeg")

    assert_problem(answer, 406, "not-acceptable")
    assert "output_format asks for image/jpeg" in answer.json()["detail"]


def test_images_can_be_inlined_in_the_answer(api: Api) -> None:
    job = generate(api, response_format="b64_json", num_images=2).json()

    for image in job["images"]:
        assert base64.b64decode(image["b64_json"]) == requests.get(image["url"], timeout=10).content


def test_a_job_can_be_read_after_its_inline_image_is_gone(api: Api, null: Stack) -> None:
    job = generate(api, response_format="b64_json").json()
    image_file(null, job["id"]).unlink()

    answer = api.get(job["links"]["self"])

    assert (answer.status_code, answer.json()["images"][0]["b64_json"]) == (200, None)


@pytest.mark.parametrize(
    ("code", "status"),
    [("out-of-memory", 507), ("invalid-output", 502), ("storage-full", 507), ("internal-error", 500)],
)
def test_a_failed_job_answers_with_the_status_of_its_error(api: Api, code: str, status: int) -> None:
    answer = generate(api, metadata={"simulate": {"fail": code}})

    assert_problem(answer, status, code)
    job = api.get(f"/api/jobs/{answer.headers['x-job-id']}").json()
    assert (job["state"], job["error"]["code"], job["images"]) == ("failed", code, [])


def test_a_job_cancelled_during_the_wait_has_no_image(null: Stack, api: Api, other_api: Api) -> None:
    with WaitingCaller(null, other_api, "image/png") as waiting:
        api.delete(waiting.job["links"]["self"])

        answer = waiting.answer()

    assert_problem(answer, 404, "image-not-found")
    assert answer.headers["x-job-id"] == waiting.job["id"]


def test_the_reported_seed_reproduces_the_image(api: Api) -> None:
    first = generate(api, "image/png")

    again = generate(api, "image/png", seed=int(first.headers["x-seed"]))

    assert pixels(again) == pixels(first)


def test_image_i_uses_seed_plus_i(api: Api) -> None:
    images = generate(api, num_images=3, seed=10).json()["images"]

    alone = generate(api, "image/png", seed=12)

    assert [image["seed"] for image in images] == [10, 11, 12]
    assert pixels(requests.get(images[2]["url"], timeout=10)) == pixels(alone)


def test_ignored_fields_are_warned_about(api: Api) -> None:
    job = generate(api, negative_prompt="y", num_inference_steps=2).json()

    assert job["warnings"] == ["negative_prompt is ignored: null does not support it"]


def test_links_begin_with_the_public_url(public: Api) -> None:
    job = generate(public).json()

    assert job["images"][0]["url"] == f"https://images.example.com{job['links']['self']}/images/0"


def test_every_waiting_caller_gets_its_own_image(api: Api, other_api: Api) -> None:
    def ask(seed: int) -> requests.Response:
        url = (api, other_api)[seed % 2].url
        return requests.post(f"{url}/api/txt2img", json={"prompt": "x", "seed": seed}, timeout=30)

    with ThreadPoolExecutor(40) as callers:
        answers = list(callers.map(ask, range(40)))

    assert [answer.json()["images"][0]["seed"] for answer in answers] == list(range(40))
    assert len({answer.headers["x-job-id"] for answer in answers}) == 40
