"""How jobs come in: once, with room, with a place in line and an estimate."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.stack import Api, Stack, valkey_server

BODY = {"prompt": "x", "seed": 1}


def test_fifty_posts_with_one_key_make_one_job(null: Stack) -> None:
    with ThreadPoolExecutor(50) as many:
        answers = list(many.map(lambda _: post(null.api, "key-fifty"), range(50)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_one_key_with_another_request_is_refused(null: Stack) -> None:
    post(null.api, "key-other")

    answer = null.api.post("/api/jobs", {"prompt": "y"}, headers={"Idempotency-Key": "key-other"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")


def test_a_key_that_comes_again_waits_for_the_same_image(null: Stack) -> None:
    first = post(null.api, "key-wait").json()

    again = null.api.post("/api/txt2img", BODY, headers={"Idempotency-Key": "key-wait"})

    assert (again.status_code, again.json()["id"], again.json()["state"]) == (200, first["id"], "succeeded")


@pytest.mark.parametrize("key", ["", "a b", "é", "x" * 256])
def test_a_key_that_is_none_is_refused(null: Stack, key: str) -> None:
    answer = null.api.post("/api/jobs", BODY, headers={"Idempotency-Key": key})

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/Idempotency-Key"


def test_an_sdks_own_retry_gets_the_job_of_the_first_attempt(null: Stack) -> None:
    body = {"prompt": "retried", "seed": 3}

    ids = [
        null.api.post("/api/jobs", body, headers={"x-stainless-retry-count": str(n)}).json()["id"] for n in (0, 1, 2)
    ]

    assert len(set(ids)) == 1


def test_an_sdk_that_asks_the_same_anew_gets_a_new_job(null: Stack) -> None:
    body = {"prompt": "asked twice", "seed": 3}

    ids = [null.api.post("/api/jobs", body, headers={"x-stainless-retry-count": "0"}).json()["id"] for _ in range(2)]

    assert len(set(ids)) == 2


def test_a_retry_of_what_failed_is_tried_again(null: Stack) -> None:
    body = {"prompt": "fails", "metadata": {"simulate": {"fail": "out-of-memory"}}}
    first = null.api.post("/api/txt2img", body, headers={"x-stainless-retry-count": "0"})

    second = null.api.post("/api/txt2img", body, headers={"x-stainless-retry-count": "1"})

    assert first.status_code == second.status_code == 507
    assert first.headers["x-job-id"] != second.headers["x-job-id"]


def test_a_backend_has_a_limit_of_its_own(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null,sd", SD_MAX_QUEUED_JOBS_PER_BACKEND="1")

    codes = [api.post("/api/jobs", {**BODY, "backend": backend}).status_code for backend in ("null", "null", "sd")]

    assert codes == [202, 429, 202]


def test_a_job_in_line_knows_its_place_and_how_long_that_may_take(stack: Stack) -> None:
    stack.start_worker("null", SD_BACKENDS="null")
    api = stack.start_api(SD_BACKENDS="null")
    slow = {"prompt": "x", "metadata": {"simulate": {"seconds": 1}}}
    api.post("/api/txt2img", slow)

    jobs = [api.post("/api/jobs", slow).json() for _ in range(3)]
    seen = api.get(jobs[-1]["links"]["self"]).json()

    assert seen["queue_position"] in (1, 2)
    assert seen["estimated_wait_seconds"] == pytest.approx(seen["queue_position"], abs=0.5)
    assert api.all_events(jobs[-1]["id"])[-1].data["estimated_wait_seconds"] is None


def test_a_backend_tells_how_long_a_new_job_would_wait(stack: Stack) -> None:
    stack.start_worker("null", SD_BACKENDS="null")
    api = stack.start_api(SD_BACKENDS="null")
    api.post("/api/txt2img", {"prompt": "x", "metadata": {"simulate": {"seconds": 1}}})
    for _ in range(9):
        api.post("/api/jobs", {"prompt": "x", "metadata": {"simulate": {"seconds": 1}}})

    def wait() -> float:
        null = next(one for one in api.get("/api/backends").json()["backends"] if one["name"] == "null")
        estimate: float = null["estimated_wait_seconds"]
        return estimate

    # What was seen of the workers is half a second old at most.
    assert any(wait() > 1 for _ in range(500))


def test_no_job_is_taken_when_there_is_no_room_for_its_image(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_MIN_FREE_BYTES=str(10**18))

    answer = api.post("/api/jobs", BODY)

    assert (answer.status_code, answer.json()["code"]) == (507, "storage-full")
    assert api.get("/health").json()["outputs"]["free_bytes"] > 0


def test_a_folder_that_is_gone_refuses_jobs_until_it_is_back(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null")
    stack.outputs.rmdir()
    refused = api.post("/api/jobs", BODY)

    stack.outputs.mkdir()

    assert (refused.status_code, refused.json()["code"]) == (507, "storage-full")
    # What was seen of the disk is a second old at most.
    assert any(api.post("/api/jobs", BODY).status_code == 202 for _ in range(2000))


def test_a_pinned_job_says_so_until_it_is_let_go(null: Stack) -> None:
    path = post(null.api, "key-pin").json()["links"]["self"]

    pinned = null.api.http.put(f"{null.api.url}{path}/pin", timeout=10).json()
    let_go = null.api.delete(f"{path}/pin").json()

    assert (pinned["pinned"], let_go["pinned"]) == (True, False)


def test_a_wrong_password_is_told_in_one_line_without_it(tmp_path: Path) -> None:
    with valkey_server(tmp_path, "--requirepass", "right") as url, Stack(f"{url}?password=wr0ng", tmp_path) as stack:
        api = stack.run([sys.executable, "-m", "api.main"])
        worker = stack.run([sys.executable, "-m", "celery", "-A", "worker.main", "worker"], SD_BACKEND="null")

        assert (api.wait() > 0, worker.wait() > 0) == (True, True)

    for output in (api.output, worker.output):
        assert "refuses its user name or password" in output
        assert "wr0ng" not in output
        assert "Traceback" not in output


def post(api: Api, key: str) -> requests.Response:
    return api.post("/api/jobs", BODY, headers={"Idempotency-Key": key})
