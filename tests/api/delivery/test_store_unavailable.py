"""What the API does while Redis is away, and after."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from api.delivery.events import read_job, retry_until_available
from shared.jobs.operations import Jobs
from shared.redis.store import AsyncStore, connect_async
from tests.api.native.test_jobs import submit
from tests.api.problem import assert_problem
from tests.api.waiting import open_waiting_call
from tests.stack import Api, Stack
from tests.valkey import Valkey

#: Callers are answered within this, whatever Redis does.
SOON = 3.0


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as valkey:
        yield valkey


@pytest.fixture(scope="module")
def alone(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API with a Redis of its own."""
    with Stack(valkey.url, tmp_path_factory.mktemp("alone"), SD_BACKENDS="null") as stack:
        stack.start_api()
        yield stack


@pytest.fixture(params=["stopped", "silent"])
def away(valkey: Valkey, alone: Stack, request: pytest.FixtureRequest) -> Iterator[Api]:
    # Connections that are open when it goes are the harder case.
    submit(alone.api)
    if request.param == "stopped":
        valkey.stop()
        yield alone.api
        valkey.start()
    else:
        valkey.suspend()
        yield alone.api
        valkey.resume()


def at_once(ask: Callable[[str], requests.Response], paths: list[str]) -> list[requests.Response]:
    """The answers to calls at the same time, each of which must come soon."""
    begin = time.monotonic()
    with ThreadPoolExecutor(len(paths)) as callers:
        answers = list(callers.map(ask, paths))
    assert time.monotonic() - begin < SOON
    return answers


def test_who_submits_is_told_soon_to_come_back(away: Api) -> None:
    answers = at_once(lambda path: away.post(path, {"prompt": "x"}), ["/api/jobs", "/api/txt2img"] * 10)

    for answer in answers:
        assert_problem(answer, 503, "store-unavailable")
        assert answer.json()["retryable"]


def test_who_looks_is_told_soon_that_the_store_is_away(away: Api) -> None:
    answers = at_once(away.get, ["/api/jobs", "/api/jobs/some", "/api/jobs/some/events", "/api/jobs/some/images/0"])

    for answer in answers:
        assert_problem(answer, 503, "store-unavailable")


def test_health_is_told_soon_and_says_that_it_is_bad(away: Api) -> None:
    # What was seen half a second ago may still be told first.
    begin = time.monotonic()
    while away.get("/health").json()["status"] != "unavailable":
        assert time.monotonic() - begin < SOON

    ready, live, *healths = at_once(away.get, ["/health/ready", "/health/live", *["/health"] * 10])

    assert (ready.status_code, ready.json()) == (503, {"status": "redis-unavailable"})
    assert live.status_code == 200
    assert {(answer.status_code, answer.json()["redis"]) for answer in healths} == {(200, False)}


def test_a_job_that_was_accepted_is_still_there_and_new_ones_are_taken(valkey: Valkey, alone: Stack) -> None:
    before = submit(alone.api)

    valkey.stop()
    valkey.start()

    assert alone.api.get(before["links"]["self"]).json()["state"] == "queued"
    assert submit(alone.api)["state"] == "queued"


def test_those_who_follow_a_job_go_on_following_it(valkey: Valkey, alone: Stack) -> None:
    job = submit(alone.api)
    with alone.api.events(job["id"]) as events:
        first = next(events)

        valkey.stop()
        valkey.start()
        alone.api.delete(job["links"]["self"])

        assert (first.data["state"], next(events).data["state"]) == ("queued", "cancelled")
        assert list(events) == []


def test_the_job_of_a_caller_that_left_is_cancelled_once_the_store_is_back(valkey: Valkey, alone: Stack) -> None:
    known = alone.api.get("/api/jobs").json()["jobs"]
    with open_waiting_call(alone.api.url, "cancel"):
        while (jobs := alone.api.get("/api/jobs").json()["jobs"]) == known:
            pass
        valkey.suspend()
    # Until a call that was sent to the store has been given up.
    assert_problem(alone.api.get("/api/jobs/some"), 503, "store-unavailable")
    valkey.resume()

    with alone.api.events(jobs[0]["id"]) as events:
        assert list(events)[-1].data["state"] == "cancelled"


def test_who_asks_for_an_accepted_job_while_the_store_is_away_waits_for_it(valkey: Valkey, alone: Stack) -> None:
    job, jobs = submit(alone.api), Jobs(alone.prefix)

    async def patient() -> str:
        store = AsyncStore(connect_async(valkey.url))
        asking = asyncio.create_task(retry_until_available(lambda: read_job(store, jobs, job["id"])))
        await asyncio.wait({asking}, timeout=0.1)
        await asyncio.to_thread(valkey.start)
        try:
            return (await asking).job.id
        finally:
            await store.client.aclose(close_connection_pool=True)

    valkey.stop()

    assert asyncio.run(patient()) == job["id"]
