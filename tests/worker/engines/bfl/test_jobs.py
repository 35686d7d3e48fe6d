"""Cloud jobs with real processes: all tests share an API and a worker."""

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
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.engines.bfl.conftest import cloud_settings
from tests.worker.engines.bfl.provider import Provider, Reply, refused, state
from tests.worker.engines.bfl.test_workers import PROMPT, shown, wait_for
from tests.worker.new_jobs import get_job, image_bytes, run_job, submit_job
from tests.worker.worker_records import only_worker

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture(scope="module")
def installed(running_provider: Provider, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("cloud"), **cloud_settings(running_provider)) as stack:
        stack.start_worker("flux-api")
        stack.start_api()
        yield stack


@pytest.fixture
def served(installed: Stack, bfl: Provider) -> Stack:
    return installed


def test_an_image_comes_through_the_api(served: Stack, bfl: Provider) -> None:
    job = run_job(served, **PROMPT)

    assert (job["backend"], job["model"]) == ("flux-api", "flux-2-pro-preview")
    assert job["providers"] == [{"id": "task-1", "cost": 3.0}]
    assert "polling" not in json.dumps(job)
    assert len(bfl.posts) == 1


def test_the_file_holds_the_request(served: Stack) -> None:
    job = run_job(served, **PROMPT)

    with Image.open(io.BytesIO(image_bytes(served, job))) as image:
        recipe = json.loads(image.info["imagegen"])
    assert recipe["request"]["bfl_model"] == recipe["model"] == "flux-2-pro-preview"
    assert (job["images"][0]["width"], job["images"][0]["height"]) == (64, 64)


def test_the_list_of_jobs_has_their_costs(served: Stack) -> None:
    run_job(served, **PROMPT)

    job, *_ = served.api.get("/api/jobs").json()["jobs"]

    assert job["providers"] == [{"id": "task-1", "cost": 3.0}]


def test_what_cannot_be_honoured_is_told(served: Stack) -> None:
    job = run_job(served, **PROMPT, bfl_model="flux-pro-1.1-ultra", width=1920, height=1080, negative_prompt="dogs")

    assert job["warnings"] == [
        "negative_prompt is ignored: flux-pro-1.1-ultra does not support it",
        "width and height only set the aspect ratio: flux-pro-1.1-ultra chooses the size",
    ]


def test_the_api_reports_credits_and_models(served: Stack) -> None:
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
def test_every_outcome_of_a_task_becomes_a_response(
    served: Stack, bfl: Provider, reply: Reply, status: int, code: str
) -> None:
    bfl.polls = [reply]

    answer = served.api.post("/api/txt2img", PROMPT)

    assert_problem(answer, status, code)
    assert get_job(served, answer.headers["x-job-id"])["providers"][0]["cost"] == 3.0
    if code == "content-rejected":
        assert "Violence" in answer.json()["detail"]


def test_an_empty_account_becomes_a_response(served: Stack, bfl: Provider) -> None:
    bfl.submits = [refused(402, "Insufficient credits")]

    answer = served.api.post("/api/txt2img", PROMPT)

    assert_problem(answer, 402, "upstream-out-of-credits")
    assert get_job(served, answer.headers["x-job-id"])["providers"] == []


def test_a_submit_whose_response_is_lost_is_not_repeated(served: Stack, bfl: Provider) -> None:
    bfl.submits = [Reply(hang_up=True)]

    answer = served.api.post("/api/txt2img", PROMPT)

    assert (answer.status_code, answer.json()["code"]) == (503, "upstream-unavailable")
    assert "may have charged" in answer.json()["detail"]
    # No status that makes clients repeat the request automatically.
    assert (answer.json()["retryable"], answer.headers.get("retry-after")) == (False, None)
    assert len(bfl.posts) == 1


def test_a_job_can_be_cancelled_while_a_caller_waits(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    job_id = submit_job(served, **PROMPT)
    wait_for(lambda: bfl.count("/v1/get_result") > 0)

    served.api.delete(f"/api/jobs/{job_id}")

    assert served.api.wait_until_done(job_id)["state"] == "cancelled"
    assert len(bfl.posts) == 1


def test_images_that_were_paid_for_are_delivered_though_the_job_failed(served: Stack, bfl: Provider) -> None:
    bfl.polls = [bfl.ready(), bfl.ready(), state("Content Moderated")]

    job = served.api.wait_until_done(submit_job(served, **PROMPT, num_images=4))

    assert (job["state"], job["error"]["code"]) == ("failed", "content-rejected")
    assert job["warnings"] == ["only 2 of 4 images were made"]
    assert [image["seed"] for image in job["images"]] == [7, 8]
    for image in job["images"]:
        assert served.api.http.get(image["url"], timeout=30).status_code == 200
    assert len(bfl.posts) == 3


def test_an_image_of_one_colour_that_was_paid_for_is_delivered(served: Stack, bfl: Provider) -> None:
    bfl.downloads = [Reply(raw=encoded(Image.new("RGB", (64, 64), "white")))]

    assert run_job(served, **PROMPT)["state"] == "succeeded"


@ONLY_LINUX
def test_large_images_of_many_jobs_stay_within_the_memory_budget(served: Stack) -> None:
    large = base64.b64encode(encoded(Image.new("RGB", (5000, 5000), "navy"))).decode()
    jobs = [submit_job(served, **PROMPT, image=[large, large], label=str(number)) for number in range(3)]

    assert {served.api.wait_until_done(job_id)["state"] for job_id in jobs} == {"succeeded"}
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.worker.pid}/status").read_text())
    assert int(peak) < 450_000


def test_progress_is_reported_while_a_task_runs(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending"), state("Generating", progress=0.4), state("Generating", progress=0.4), bfl.ready()]

    events = served.api.all_events(submit_job(served, **PROMPT))

    assert [event.data["fraction"] for event in events if event.type == "progress"][:1] == [0.4]


def test_a_busy_worker_reports_its_job(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    jobs = [submit_job(served, **PROMPT) for _ in range(2)]

    wait_until(
        lambda: (worker := only_worker(served)) is not None and worker.state == "busy" and worker.current_job in jobs
    )

    bfl.polls = [bfl.ready()]
    wait_until(
        lambda: (record := only_worker(served)) is not None and (record.state, record.current_job) == ("ready", None)
    )


@ONLY_LINUX
def test_the_worker_loads_no_model_library(served: Stack) -> None:
    run_job(served, **PROMPT)

    assert "libtorch" not in Path(f"/proc/{served.worker.pid}/maps").read_text()
