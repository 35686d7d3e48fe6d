"""Jobs of the cloud through real processes: the API and a worker on threads, the same for every test."""

import base64
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.api.images import encoded
from tests.api.problem import assert_problem
from tests.polling import wait_until
from tests.stack import Stack
from tests.worker.engines.bfl.conftest import cloud_settings
from tests.worker.engines.bfl.provider import Provider, Reply, provider, refused, state
from tests.worker.engines.bfl.test_workers import PROMPT, shown, wait_for
from tests.worker.new_jobs import get_job, image_bytes, run_job, submit_job
from tests.worker.worker_records import only_worker

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def everyones() -> Iterator[Provider]:
    with provider() as server:
        yield server


@pytest.fixture(scope="module")
def installed(everyones: Provider, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("cloud"), **cloud_settings(everyones)) as stack:
        stack.start_worker("flux-api")
        stack.start_api()
        yield stack


@pytest.fixture
def bfl(everyones: Provider) -> Provider:
    everyones.reset()
    return everyones


@pytest.fixture
def served(installed: Stack, bfl: Provider) -> Stack:
    return installed


def test_a_image_comes_through_the_api(served: Stack, bfl: Provider) -> None:
    job = run_job(served, **PROMPT)

    assert (job["backend"], job["model"]) == ("flux-api", "flux-2-pro-preview")
    assert job["providers"] == [{"id": "task-1", "cost": 3.0}]
    assert "polling" not in json.dumps(job)
    assert len(bfl.posts) == 1


def test_its_file_holds_the_request_like_any_other(served: Stack) -> None:
    job = run_job(served, **PROMPT)

    with Image.open(io.BytesIO(image_bytes(served, job))) as image:
        recipe = json.loads(image.info["imagegen"])
    assert recipe["request"]["bfl_model"] == recipe["model"] == "flux-2-pro-preview"
    assert (job["images"][0]["width"], job["images"][0]["height"]) == (64, 64)


def test_the_list_of_jobs_tells_what_they_cost(served: Stack) -> None:
    run_job(served, **PROMPT)

    job, *_ = served.api.get("/api/jobs").json()["jobs"]

    assert job["providers"] == [{"id": "task-1", "cost": 3.0}]


def test_what_cannot_be_honoured_is_told(served: Stack) -> None:
    job = run_job(served, **PROMPT, bfl_model="flux-pro-1.1-ultra", width=1920, height=1080, negative_prompt="dogs")

    assert job["warnings"] == [
        "negative_prompt is ignored: flux-pro-1.1-ultra cannot honour it",
        "width and height only set the aspect ratio: flux-pro-1.1-ultra chooses the size",
    ]


def test_the_account_and_the_models_are_told(served: Stack) -> None:
    wait_for(lambda: (shown(served.api)["credits"], shown(served.api)["status"]) == (123.5, "ready"))

    view = shown(served.api)
    assert view["device"] == "127.0.0.1"
    assert "flux-2-max" in view["capabilities"]["properties"]["bfl_model"]["enum"]


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (state("Request Moderated", details={"Moderation Reasons": ["Violence"]}), 422, "content-rejected"),
        (state("Error"), 502, "upstream-rejected"),
    ],
)
def test_what_becomes_of_a_task_is_answered(served: Stack, bfl: Provider, reply: Reply, status: int, code: str) -> None:
    bfl.polls = [reply]

    answer = served.api.post("/api/txt2img", PROMPT)

    assert_problem(answer, status, code)
    assert get_job(served, answer.headers["x-job-id"])["providers"][0]["cost"] == 3.0
    if code == "content-rejected":
        assert "Violence" in answer.json()["detail"]


def test_an_empty_account_is_answered(served: Stack, bfl: Provider) -> None:
    bfl.submits = [refused(402, "Insufficient credits")]

    answer = served.api.post("/api/txt2img", PROMPT)

    assert_problem(answer, 402, "upstream-out-of-credits")
    assert get_job(served, answer.headers["x-job-id"])["providers"] == []


def test_a_post_whose_answer_is_lost_is_not_repeated(served: Stack, bfl: Provider) -> None:
    bfl.submits = [Reply(hang_up=True)]

    answer = served.api.post("/api/txt2img", PROMPT)

    assert (answer.status_code, answer.json()["code"]) == (503, "upstream-unavailable")
    assert "may have charged" in answer.json()["detail"]
    # Nothing that would make a client send it again by itself.
    assert (answer.json()["retryable"], answer.headers.get("retry-after")) == (False, None)
    assert len(bfl.posts) == 1


def test_a_job_can_be_cancelled_while_it_is_waited_for(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    job_id = submit_job(served, **PROMPT)
    wait_for(lambda: bfl.count("/v1/get_result") > 0)

    served.api.delete(f"/api/jobs/{job_id}")

    assert served.api.wait_until_done(job_id)["state"] == "cancelled"
    assert len(bfl.posts) == 1


def test_what_was_bought_before_a_job_failed_is_given(served: Stack, bfl: Provider) -> None:
    bfl.polls = [bfl.ready(), bfl.ready(), state("Content Moderated")]

    job = served.api.wait_until_done(submit_job(served, **PROMPT, num_images=4))

    assert (job["state"], job["error"]["code"]) == ("failed", "content-rejected")
    assert job["warnings"] == ["only 2 of 4 images were made"]
    assert [image["seed"] for image in job["images"]] == [7, 8]
    for image in job["images"]:
        assert served.api.http.get(image["url"], timeout=30).status_code == 200
    assert len(bfl.posts) == 3


def test_an_image_of_one_colour_that_was_paid_for_is_given(served: Stack, bfl: Provider) -> None:
    bfl.downloads = [Reply(raw=encoded(Image.new("RGB", (64, 64), "white")))]

    assert run_job(served, **PROMPT)["state"] == "succeeded"


@ONLY_LINUX
def test_large_images_of_many_jobs_at_once_take_the_memory_of_a_few(served: Stack) -> None:
    large = base64.b64encode(encoded(Image.new("RGB", (5000, 5000), "navy"))).decode()
    jobs = [submit_job(served, **PROMPT, image=[large, large], label=str(number)) for number in range(3)]

    assert {served.api.wait_until_done(job_id)["state"] for job_id in jobs} == {"succeeded"}
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.worker.pid}/status").read_text())
    assert int(peak) < 450_000


def test_progress_is_told_while_it_is_waited_for(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending"), state("Generating", progress=0.4), state("Generating", progress=0.4), bfl.ready()]

    events = served.api.all_events(submit_job(served, **PROMPT))

    assert [event.data["fraction"] for event in events if event.type == "progress"][:1] == [0.4]


def test_a_busy_worker_says_so(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    jobs = [submit_job(served, **PROMPT) for _ in range(2)]

    wait_until(lambda: (worker := only_worker(served)) and (worker.state, worker.current_job) == ("busy", jobs[0]))

    bfl.polls = [bfl.ready()]
    wait_until(
        lambda: (record := only_worker(served)) is not None and (record.state, record.current_job) == ("ready", None)
    )


@ONLY_LINUX
def test_the_worker_loads_no_model_library(served: Stack) -> None:
    run_job(served, **PROMPT)

    assert "libtorch" not in Path(f"/proc/{served.worker.pid}/maps").read_text()
