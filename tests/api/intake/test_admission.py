"""Accepting jobs: idempotency, limits, queue positions and estimated waits."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.stack import Api, Stack, valkey_server
from tests.support.polling import wait_until

BODY = {"prompt": "x", "seed": 1}


def test_fifty_requests_with_one_key_make_one_job(null: Stack) -> None:
    with ThreadPoolExecutor(50) as many:
        answers = list(many.map(lambda _: post(null.api, "key-fifty"), range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_an_idempotency_key_with_another_request_is_refused(null: Stack) -> None:
    post(null.api, "key-other")

    answer = null.api.post("/api/jobs", {"prompt": "y"}, headers={"Idempotency-Key": "key-other"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")


def test_a_repeated_key_waits_for_the_same_image(null: Stack) -> None:
    first = post(null.api, "key-wait").json()

    again = null.api.post("/api/txt2img", BODY, headers={"Idempotency-Key": "key-wait"})

    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, first["id"], "succeeded")
    begin = time.monotonic()
    null.api.post("/api/txt2img", BODY, headers={"Idempotency-Key": "key-wait", "Prefer": "wait=30"})
    assert time.monotonic() - begin < 15, "the job has ended already"


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
def test_an_invalid_idempotency_key_is_refused(null: Stack, key: str) -> None:
    answer = null.api.post("/api/jobs", BODY, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/Idempotency-Key"


def test_a_numbered_retry_returns_the_job_of_the_first_attempt(null: Stack) -> None:
    body = {"prompt": "retried", "seed": 3}

    ids = [
        null.api.post("/api/jobs", body, headers={"x-stainless-retry-count": str(n)}).json()["id"] for n in (0, 1, 2)
    ]

    assert len(set(ids)) == 1


def test_an_equal_first_attempt_creates_a_new_job(null: Stack) -> None:
    body = {"prompt": "asked twice", "seed": 3}

    ids = [null.api.post("/api/jobs", body, headers={"x-stainless-retry-count": "0"}).json()["id"] for _ in range(2)]

    assert len(set(ids)) == 2


def test_a_retry_of_a_failed_job_creates_a_new_job(null: Stack) -> None:
    body = {"prompt": "fails", "metadata": {"simulate": {"fail": "out-of-memory"}}}
    first = null.api.post("/api/txt2img", body, headers={"x-stainless-retry-count": "0"})

    second = null.api.post("/api/txt2img", body, headers={"x-stainless-retry-count": "1"})

    assert first.status_code == second.status_code == 507
    assert first.headers["x-job-id"] != second.headers["x-job-id"]


def test_each_backend_has_its_own_queue_limit(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null,sd", SD_MAX_QUEUED_JOBS_PER_BACKEND="1")

    codes = [api.post("/api/jobs", {**BODY, "backend": backend}).status_code for backend in ("null", "null", "sd")]

    assert codes == [202, 429, 202]


def test_a_queued_job_has_its_position_and_estimated_wait(stack: Stack) -> None:
    stack.start_worker("null", SD_BACKENDS="null")
    api = stack.start_api(SD_BACKENDS="null")
    api.post("/api/txt2img", {"prompt": "x", "metadata": {"simulate": {"seconds": 1}}})
    # The estimate for a job is what those before it took; the one that runs knows better.
    slow = {"prompt": "x", "num_inference_steps": 100, "metadata": {"simulate": {"seconds": 300}}}

    jobs = [api.post("/api/jobs", slow).json() for _ in range(3)]
    path = jobs[-1]["links"]["self"]
    wait_until(lambda: api.get(path).json()["estimated_wait_seconds"] > 100)
    queued = api.get(path).json()
    for job in jobs:
        api.delete(job["links"]["self"])

    assert queued["queue_position"] == 1
    assert queued["estimated_wait_seconds"] < 1000
    assert api.all_events(jobs[-1]["id"])[-1].data["estimated_wait_seconds"] is None


def test_a_backend_estimates_the_wait_of_a_new_job(stack: Stack) -> None:
    stack.start_worker("null", SD_BACKENDS="null")
    api = stack.start_api(SD_BACKENDS="null")
    api.post("/api/txt2img", {"prompt": "x", "metadata": {"simulate": {"seconds": 1}}})
    for _ in range(30):
        api.post("/api/jobs", {"prompt": "x", "metadata": {"simulate": {"seconds": 1}}})

    def wait() -> float:
        null = next(backend for backend in api.get("/api/backends").json()["backends"] if backend["name"] == "null")
        estimate: float = null["estimated_wait_seconds"]
        return estimate

    # The API caches the state of the workers for half a second.
    assert any(wait() > 1 for _ in range(500))


def test_a_job_is_refused_without_space_for_its_image(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_MIN_FREE_BYTES=str(10**18))

    answer = api.post("/api/jobs", BODY)

    assert (answer.status_code, answer.json()["code"]) == (507, "storage-full")
    assert api.get("/health").json()["outputs"]["free_bytes"] > 0


def test_jobs_are_refused_while_the_output_folder_is_missing(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null")
    stack.outputs.rmdir()
    refused = api.post("/api/jobs", BODY)

    stack.outputs.mkdir()

    assert (refused.status_code, refused.json()["code"]) == (507, "storage-full")
    # The API caches the disk usage for a second.
    assert any(api.post("/api/jobs", BODY).status_code == 202 for _ in range(2000))


def test_a_job_can_be_pinned_and_unpinned(null: Stack) -> None:
    path = post(null.api, "key-pin").json()["links"]["self"]

    pinned = null.api.http.put(f"{null.api.url}{path}/pin", timeout=10).json()
    unpinned = null.api.delete(f"{path}/pin").json()

    assert (pinned["pinned"], unpinned["pinned"]) == (True, False)


def test_a_wrong_redis_password_is_one_line_that_omits_it(tmp_path: Path) -> None:
    with valkey_server(tmp_path, "--requirepass", "right") as url, Stack(f"{url}?password=wr0ng", tmp_path) as stack:
        api = stack.run([sys.executable, "-m", "api.main"])
        worker = stack.run([sys.executable, "-m", "worker.main"], SD_BACKEND="null")

        assert (api.wait() > 0, worker.wait() > 0) == (True, True)

    for output in (api.output, worker.output):
        assert "refuses its user name or password" in output
        assert "wr0ng" not in output
        assert "Traceback" not in output


def post(api: Api, key: str) -> requests.Response:
    return api.post("/api/jobs", BODY, headers={"Idempotency-Key": key})
