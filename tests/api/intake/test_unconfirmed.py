"""A job that the store accepted although its caller was told that the store does not answer: asking again finds it."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem
from tests.api.relay import Relay
from tests.stack import Api, Stack, socket_folder
from tests.valkey import Valkey

#: How often the store is asked for a job, over a new connection, until its caller is told that it does not answer.
ASKED = 2


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def alone(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API with a Redis of its own, which no request asks at the door: one that falls silent is met further in."""
    with Stack(valkey.url, tmp_path_factory.mktemp("alone"), SD_BACKENDS="null", SD_REQUESTS_PER_SECOND="0") as stack:
        stack.start_api()
        yield stack


@pytest.fixture
def request_body() -> dict[str, Any]:
    return {"prompt": "x", "label": str(uuid.uuid4())}


def unsure(valkey: Valkey, api: Api, body: dict[str, Any], times: int = 1, path: str = "/api/jobs") -> list[str]:
    """The ids that callers are told while the store is silent; it executes later what it was sent."""
    # What is known of the workers is read anew every half second: only right after that does a request get further.
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
    return [answer.json()["job_id"] for answer in answers]


@pytest.fixture
def relayed(valkey: Valkey, alone: Stack, tmp_path: Path) -> Iterator[tuple[Api, Relay]]:
    """Another API of the same service, on whose way to the store answers can be lost."""
    with socket_folder() as folder, Relay(valkey.url.removeprefix("unix://"), Path(folder)) as relay:
        api = alone.start_api(SD_REDIS_URL=relay.url)
        yield api, relay
        api.process.kill()
        alone.apis.remove(api)


def lose(relay: Relay, body: dict[str, Any], times: int) -> None:
    """So many answers of the store to this request."""
    relay.lose, relay.times = body["label"].encode(), times


def jobs_of(api: Api, body: dict[str, Any]) -> list[str]:
    return [job["id"] for job in api.get("/api/jobs", params={"label": body["label"]}).json()["jobs"]]


def again(api: Api, body: dict[str, Any], **headers: str) -> str:
    answer = api.post("/api/jobs", body, headers=headers)
    assert answer.status_code == 202
    assert answer.json()["id"] == answer.headers["x-job-id"]
    return answer.headers["x-job-id"]


def the_same(stack: Stack) -> Api:
    return stack.api


def another(stack: Stack) -> Api:
    return stack.start_api()


def restarted(stack: Stack) -> Api:
    stack.api.process.kill()
    stack.apis.clear()
    return stack.start_api()


@pytest.mark.parametrize("process", [the_same, another, restarted])
def test_the_same_request_again_finds_the_job(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any], process: Callable[[Stack], Api]
) -> None:
    (job_id,) = unsure(valkey, alone.api, request_body)

    assert again(process(alone), request_body) == job_id
    assert jobs_of(alone.api, request_body) == [job_id]


def test_a_caller_that_waits_for_its_image_finds_the_job(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any]
) -> None:
    (job_id,) = unsure(valkey, alone.api, request_body, path="/api/txt2img")

    answer = alone.api.post("/api/txt2img", request_body, headers={"Prefer": "wait=0"})

    assert (answer.status_code, answer.headers["x-job-id"]) == (202, job_id)


def test_an_answer_that_was_lost_once_is_asked_for_again(
    relayed: tuple[Api, Relay], request_body: dict[str, Any]
) -> None:
    api, relay = relayed
    lose(relay, request_body, ASKED - 1)

    answer = api.post("/api/jobs", request_body)

    assert (answer.status_code, relay.lost) == (202, ASKED - 1)
    assert jobs_of(api, request_body) == [answer.json()["id"]]


def test_a_job_is_cancelled_for_who_asked_although_the_answer_was_lost(
    relayed: tuple[Api, Relay], request_body: dict[str, Any]
) -> None:
    api, relay = relayed
    first, job = submit(api), submit(api, **request_body)
    # From then on the store knows the script, and does what it is asked at once.
    api.delete(f"/api/jobs/{first['id']}")
    relay.lose, relay.times = b'"state":"cancelled"', 1

    answer = api.delete(f"/api/jobs/{job['id']}")

    assert (answer.status_code, answer.json()["state"], relay.lost) == (200, "cancelled", 1)


def test_a_job_whose_answer_was_lost_is_found(relayed: tuple[Api, Relay], request_body: dict[str, Any]) -> None:
    api, relay = relayed
    lose(relay, request_body, ASKED)

    refused = api.post("/api/jobs", request_body)

    assert_problem(refused, 503, "store-unavailable")
    assert relay.lost == ASKED
    assert again(api, request_body) == refused.json()["job_id"]
    assert jobs_of(api, request_body) == [refused.json()["job_id"]]


def test_every_process_finds_a_job_whose_answer_was_lost(
    alone: Stack, relayed: tuple[Api, Relay], request_body: dict[str, Any]
) -> None:
    api, relay = relayed
    lose(relay, request_body, ASKED)
    job_id = api.post("/api/jobs", request_body).json()["job_id"]

    with redis.Redis.from_url(alone.settings["SD_REDIS_URL"], decode_responses=True) as client:
        while not any(
            job_id in client.lrange(key, 0, -1) for key in client.scan_iter(f"{alone.prefix}repeat:*", _type="list")
        ):
            assert relay.lost == ASKED

    assert again(alone.api, request_body) == job_id


def test_an_idempotency_key_finds_the_job_too(valkey: Valkey, alone: Stack, request_body: dict[str, Any]) -> None:
    submit(alone.api)
    valkey.suspend()
    refused = alone.api.post("/api/jobs", request_body, headers={"Idempotency-Key": request_body["label"]})
    valkey.resume()

    found = again(alone.api, request_body, **{"Idempotency-Key": request_body["label"]})

    assert refused.headers["x-job-id"] == found
    assert jobs_of(alone.api, request_body) == [found]


def test_two_requests_that_are_the_same_are_two_jobs_however_often_they_are_asked_again(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any]
) -> None:
    told = unsure(valkey, alone.api, request_body, times=2)

    found = [again(alone.api, request_body) for _ in told]

    # One that needed a new connection to the store was never sent, and so not accepted.
    assert set(found) & set(told)
    assert len(set(found)) == 2
    assert sorted(found) == sorted(jobs_of(alone.api, request_body))


def test_what_is_asked_for_after_that_is_a_job_of_its_own(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any]
) -> None:
    (job_id,) = unsure(valkey, alone.api, request_body)
    again(alone.api, request_body)

    assert again(alone.api, request_body) != job_id


def test_a_job_that_was_in_vain_is_not_found_but_made_anew(
    valkey: Valkey, alone: Stack, request_body: dict[str, Any]
) -> None:
    (job_id,) = unsure(valkey, alone.api, request_body)
    alone.api.delete(f"/api/jobs/{job_id}")

    assert again(alone.api, request_body) != job_id


def test_equal_first_requests_are_jobs_of_their_own(alone: Stack, request_body: dict[str, Any]) -> None:
    def ask(_: int) -> str:
        with requests.Session() as session:
            return str(session.post(f"{alone.api.url}/api/jobs", json=request_body, timeout=30).json()["id"])

    with ThreadPoolExecutor(8) as callers:
        assert len(set(callers.map(ask, range(16)))) == 16
