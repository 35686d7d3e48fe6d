"""Redis accepts a job, but its caller gets 503 because the answer is late or lost: a retry finds the job."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from api.intake.idempotency import RETRY_SECONDS
from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem
from tests.api.relay import Relay
from tests.stack import Api, Stack, socket_folder
from tests.support.valkey import Valkey

#: How often the API sends a command, each time over a new connection, until it answers 503.
ATTEMPTS = 2
MOST_TRIES = 10


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def alone(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API with its own Redis. Without a rate limit, admission is the first to use Redis."""
    with Stack(valkey.url, tmp_path_factory.mktemp("alone"), SD_BACKENDS="null", SD_REQUESTS_PER_SECOND="0") as stack:
        stack.start_api()
        yield stack


@pytest.fixture
def request_body() -> dict[str, Any]:
    return {"prompt": "x", "label": str(uuid.uuid4())}


def submit_unconfirmed(
    valkey: Valkey, api: Api, body: dict[str, Any], times: int = 1, path: str = "/api/jobs"
) -> list[str]:
    """The ids that callers get while Redis is suspended. It executes their commands later."""
    for _ in range(MOST_TRIES):
        problems = submit_while_away(valkey, api, body, times, path)
        if all("job_id" in problem for problem in problems):
            return [problem["job_id"] for problem in problems]
    raise AssertionError(problems)


def submit_while_away(valkey: Valkey, api: Api, body: dict[str, Any], times: int, path: str) -> list[dict[str, Any]]:
    # The API reads the workers every half second; only with a fresh copy does a request reach admission, which a busy
    # machine misses now and then.
    submit(api)
    valkey.suspend()
    try:
        with ThreadPoolExecutor(times) as callers:
            answers = list(callers.map(lambda _: api.post(path, body), range(times)))
    finally:
        valkey.resume()
    for answer in answers:
        assert_problem(answer, 503, "store-unavailable")
        assert answer.json()["retryable"]
    return [answer.json() for answer in answers]


@pytest.fixture
def relayed(valkey: Valkey, alone: Stack, tmp_path: Path) -> Iterator[tuple[Api, Relay]]:
    """Another API of the same service, whose connection to Redis can lose answers."""
    with socket_folder() as folder, Relay(valkey.url.removeprefix("unix://"), Path(folder)) as relay:
        api = alone.start_api(SD_REDIS_URL=relay.url)
        yield api, relay
        api.process.kill()
        alone.apis.remove(api)


def lose(relay: Relay, body: dict[str, Any], times: int) -> None:
    """Lose the next answers of Redis about this request."""
    relay.lose, relay.times = body["label"].encode(), times


def jobs_of(api: Api, body: dict[str, Any]) -> list[str]:
    return [job["id"] for job in api.get("/api/jobs", params={"label": body["label"]}).json()["jobs"]]


def resubmit(api: Api, body: dict[str, Any], **headers: str) -> str:
    answer = api.post("/api/jobs", body, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["id"] == answer.headers["x-job-id"]
    return answer.headers["x-job-id"]


def the_same(stack: Stack) -> Api:
    return stack.api


def another(stack: Stack) -> Api:
    # The API that answered 503 tells Redis of the job within two pauses; the rest is for a busy machine.
    time.sleep(4 * RETRY_SECONDS)
    return stack.start_api()


def restarted(stack: Stack) -> Api:
    stack.api.process.kill()
    stack.apis.clear()
    return stack.start_api()


@pytest.mark.parametrize("process", [the_same, another, restarted])
def test_a_repeated_request_finds_the_job(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any], process: Callable[[Stack], Api]
) -> None:
    (job_id,) = submit_unconfirmed(valkey, alone.api, request_body)

    assert resubmit(process(alone), request_body) == job_id
    assert jobs_of(alone.api, request_body) == [job_id]


def test_a_repeated_waiting_request_finds_the_job(valkey: Valkey, alone: Stack, request_body: dict[str, Any]) -> None:
    (job_id,) = submit_unconfirmed(valkey, alone.api, request_body, path="/api/txt2img")

    answer = alone.api.post("/api/txt2img", request_body, headers={"Prefer": "wait=0"})

    assert (answer.status_code, answer.headers["x-job-id"]) == (202, job_id)


def test_one_lost_answer_of_redis_is_retried(relayed: tuple[Api, Relay], request_body: dict[str, Any]) -> None:
    api, relay = relayed
    lose(relay, request_body, ATTEMPTS - 1)

    answer = api.post("/api/jobs", request_body)

    assert (answer.status_code, relay.lost) == (202, ATTEMPTS - 1)
    assert jobs_of(api, request_body) == [answer.json()["id"]]


def test_a_cancellation_succeeds_although_its_answer_was_lost(
    relayed: tuple[Api, Relay], request_body: dict[str, Any]
) -> None:
    api, relay = relayed
    first, job = submit(api), submit(api, **request_body)
    # Loads the script, so that the next cancellation is a single command.
    api.delete(f"/api/jobs/{first['id']}")
    relay.lose, relay.times = b'"state":"cancelled"', 1

    answer = api.delete(f"/api/jobs/{job['id']}")

    assert (answer.status_code, answer.json()["state"], relay.lost) == (200, "cancelled", 1)


def test_a_repeated_request_finds_a_job_whose_answer_was_lost(
    relayed: tuple[Api, Relay], request_body: dict[str, Any]
) -> None:
    api, relay = relayed
    lose(relay, request_body, ATTEMPTS)

    refused = api.post("/api/jobs", request_body)

    assert_problem(refused, 503, "store-unavailable")
    assert relay.lost == ATTEMPTS
    assert resubmit(api, request_body) == refused.json()["job_id"]
    assert jobs_of(api, request_body) == [refused.json()["job_id"]]


def test_another_process_finds_a_job_whose_answer_was_lost(
    alone: Stack, relayed: tuple[Api, Relay], request_body: dict[str, Any]
) -> None:
    api, relay = relayed
    lose(relay, request_body, ATTEMPTS)
    job_id = api.post("/api/jobs", request_body).json()["job_id"]

    with redis.Redis.from_url(alone.settings["SD_REDIS_URL"], decode_responses=True) as client:
        while not any(
            job_id in client.lrange(key, 0, -1) for key in client.scan_iter(f"{alone.prefix}repeat:*", _type="list")
        ):
            assert relay.lost == ATTEMPTS

    assert resubmit(alone.api, request_body) == job_id


def test_an_idempotency_key_finds_the_unconfirmed_job(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any]
) -> None:
    submit(alone.api)
    valkey.suspend()
    refused = alone.api.post("/api/jobs", request_body, headers={"Idempotency-Key": request_body["label"]})
    valkey.resume()

    found = resubmit(alone.api, request_body, **{"Idempotency-Key": request_body["label"]})

    assert refused.headers["x-job-id"] == found
    assert jobs_of(alone.api, request_body) == [found]


def test_two_equal_unconfirmed_requests_are_two_jobs(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any]
) -> None:
    unconfirmed = submit_unconfirmed(valkey, alone.api, request_body, times=2)

    found = [resubmit(alone.api, request_body) for _ in unconfirmed]

    # A request that needed a new connection was never sent, so its job was not accepted.
    assert set(found) & set(unconfirmed)
    assert len(set(found)) == 2
    assert sorted(found) == sorted(jobs_of(alone.api, request_body))


def test_an_unconfirmed_job_is_returned_only_once(valkey: Valkey, alone: Stack, request_body: dict[str, Any]) -> None:
    (job_id,) = submit_unconfirmed(valkey, alone.api, request_body)
    resubmit(alone.api, request_body)

    assert resubmit(alone.api, request_body) != job_id


def test_a_cancelled_unconfirmed_job_is_not_returned(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any]
) -> None:
    (job_id,) = submit_unconfirmed(valkey, alone.api, request_body)
    alone.api.delete(f"/api/jobs/{job_id}")

    assert resubmit(alone.api, request_body) != job_id


def test_equal_confirmed_requests_are_separate_jobs(alone: Stack, request_body: dict[str, Any]) -> None:
    def submit_one(_: int) -> str:
        with requests.Session() as session:
            return str(session.post(f"{alone.api.url}/api/jobs", json=request_body, timeout=30).json()["id"])

    with ThreadPoolExecutor(8) as callers:
        assert len(set(callers.map(submit_one, range(16)))) == 16
