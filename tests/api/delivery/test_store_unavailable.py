"""The API while Redis is away, and afterwards."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from api.delivery.events import read_job, retry_until_available
from shared.jobs.operations import Jobs
from shared.redis.store import AsyncStore, async_connections
from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem
from tests.api.waiting import open_waiting_call
from tests.stack import Api, Stack
from tests.support.polling import wait_until
from tests.support.valkey import Valkey

#: Callers get an answer within this time, whatever Redis does: 3 s, and the rest is for a busy machine.
SOON = 15.0


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def alone(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API with its own Redis."""
    with Stack(valkey.url, tmp_path_factory.mktemp("alone"), SD_BACKENDS="null") as stack:
        stack.start_api()
        yield stack


@pytest.fixture(params=["stopped", "silent"])
def away(valkey: Valkey, alone: Stack, request: pytest.FixtureRequest) -> Iterator[Api]:
    # Opens connections, which is the harder case.
    submit(alone.api)
    if request.param == "stopped":
        valkey.stop()
        yield alone.api
        valkey.start()
    else:
        valkey.suspend()
        yield alone.api
        valkey.resume()


def call_concurrently(call: Callable[[str], requests.Response], paths: list[str]) -> list[requests.Response]:
    """The answers to concurrent calls, which must come soon."""
    begin = time.monotonic()
    with ThreadPoolExecutor(len(paths)) as callers:
        answers = list(callers.map(call, paths))
    assert time.monotonic() - begin < SOON
    return answers


def test_submissions_get_503_soon(away: Api) -> None:
    answers = call_concurrently(lambda path: away.post(path, {"prompt": "x"}), ["/api/jobs", "/api/txt2img"] * 10)

    for answer in answers:
        assert_problem(answer, 503, "store-unavailable")
        assert answer.json()["retryable"]


def test_reads_get_503_soon(away: Api) -> None:
    answers = call_concurrently(
        away.get, ["/api/jobs", "/api/jobs/some", "/api/jobs/some/events", "/api/jobs/some/images/0"]
    )

    for answer in answers:
        assert_problem(answer, 503, "store-unavailable")


def test_health_answers_soon_and_reports_the_outage(away: Api) -> None:
    # The API caches the state of the workers for half a second.
    begin = time.monotonic()
    while away.get("/health").json()["status"] != "unavailable":
        assert time.monotonic() - begin < SOON

    ready, live, *healths = call_concurrently(away.get, ["/health/ready", "/health/live", *["/health"] * 10])

    assert (ready.status_code, ready.json()) == (503, {"status": "redis-unavailable"})
    assert live.status_code == 200
    assert {(answer.status_code, answer.json()["redis"]) for answer in healths} == {(200, False)}


def test_accepted_jobs_survive_and_new_ones_are_accepted_after_a_restart(valkey: Valkey, alone: Stack) -> None:
    before = submit(alone.api)

    valkey.stop()
    valkey.start()

    assert alone.api.get(before["links"]["self"]).json()["state"] == "queued"
    assert submit(alone.api)["state"] == "queued"


def test_event_streams_survive_a_restart_of_redis(valkey: Valkey, alone: Stack) -> None:
    job = submit(alone.api)
    with alone.api.events(job["id"]) as events:
        first = next(events)

        valkey.stop()
        valkey.start()
        alone.api.delete(job["links"]["self"])

        assert (first.data["state"], next(events).data["state"]) == ("queued", "cancelled")
        assert list(events) == []


def test_the_job_of_a_disconnected_caller_is_cancelled_once_redis_is_back(valkey: Valkey, alone: Stack) -> None:
    known = alone.api.get("/api/jobs").json()["jobs"]
    jobs: list[dict[str, Any]] = []

    def is_accepted() -> bool:
        jobs[:] = alone.api.get("/api/jobs").json()["jobs"]
        return jobs != known

    with open_waiting_call(alone.api.url, "cancel"):
        wait_until(is_accepted)
        valkey.suspend()
    # Waits until a command that was sent to Redis times out.
    assert_problem(alone.api.get("/api/jobs/some"), 503, "store-unavailable")
    valkey.resume()

    with alone.api.events(jobs[0]["id"]) as events:
        assert list(events)[-1].data["state"] == "cancelled"


def test_reading_an_accepted_job_waits_for_redis(valkey: Valkey, alone: Stack) -> None:
    job, jobs = submit(alone.api), Jobs(alone.prefix)

    async def read_while_away() -> str:
        store = AsyncStore(async_connections(valkey.url))
        reading = asyncio.create_task(retry_until_available(lambda: read_job(store, jobs, job["id"])))
        await asyncio.wait({reading}, timeout=0.1)
        await asyncio.to_thread(valkey.start)
        try:
            return (await reading).job.id
        finally:
            await store.aclose()

    valkey.stop()

    assert asyncio.run(read_while_away()) == job["id"]
