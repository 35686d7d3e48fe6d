"""Many callers at once: those who ask twice, those who leave, those who are too many."""

import asyncio
import json
import statistics
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import psutil
import pytest
import requests

from shared.jobs.states import State
from tests.api.problem import assert_problem
from tests.api.waiting import open_waiting_call
from tests.faults.invariant import Invariant
from tests.faults.service import Service
from tests.polling import wait_until
from tests.valkey import Valkey

LEAVERS = 250
MOST_QUEUED = 50
FLOOD, CALLERS = 2000, 64
#: Connections to Redis that an API keeps for later calls.
POOL = 32


@pytest.fixture(scope="module")
def crowded(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An API with a short line, and one that takes every job; the same worker for both."""
    folder = tmp_path_factory.mktemp("crowded")
    with Service(valkey.url, folder, ("null-0", "api-0"), SD_MAX_QUEUED_JOBS=str(MOST_QUEUED)) as crowded:
        crowded.mend()
        yield crowded


@pytest.fixture
def service(crowded: Service) -> Iterator[Service]:
    yield crowded
    Invariant(crowded).hold(crowded.accepted)


def test_fifty_requests_with_one_key_at_once_get_one_job(service: Service) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    url = f"{service.api.url}/api/jobs"

    with ThreadPoolExecutor(50) as callers:
        answers = list(
            callers.map(lambda _: requests.post(url, json={"prompt": "x"}, headers=key, timeout=30), range(50))
        )
    other = service.api.post("/api/jobs", {"prompt": "another"}, headers=key)

    ids = {answer.headers["x-job-id"] for answer in answers}
    service.accepted |= ids
    assert {answer.status_code for answer in answers} == {202}
    assert len(ids) == 1
    assert_problem(other, 422, "idempotency-mismatch")


def test_more_jobs_than_there_is_room_for_are_told_when_to_come_back(service: Service) -> None:
    answers, health = asyncio.run(flood(service))

    service.accepted |= {answer.headers["x-job-id"] for answer, _ in answers if answer.status_code == 202}
    refused = [(answer, seconds) for answer, seconds in answers if answer.status_code == 429]
    assert {answer.status_code for answer, _ in answers} == {202, 429}
    assert all(int(answer.headers["retry-after"]) > 0 for answer, _ in refused)
    assert percentile([seconds for _, seconds in refused]) < 5
    assert percentile(health) < 5
    print_figures(len(refused), [seconds for _, seconds in refused], health)


async def flood(service: Service) -> tuple[list[tuple[httpx2.Response, float]], list[float]]:
    """Every answer to a submit and how long it took, and how long /health took meanwhile."""
    answers: list[tuple[httpx2.Response, float]] = []
    health: list[float] = []
    left = iter(range(FLOOD))
    limits = httpx2.Limits(max_connections=CALLERS + 1)

    async with httpx2.AsyncClient(base_url=service.api.url, timeout=30, limits=limits) as http:

        async def submit() -> None:
            for _ in left:
                begin = time.monotonic()
                answers.append((await http.post("/api/jobs", json={"prompt": "x"}), time.monotonic() - begin))

        async def look() -> None:
            while True:
                begin = time.monotonic()
                (await http.get("/health")).raise_for_status()
                health.append(time.monotonic() - begin)

        looking = asyncio.create_task(look())
        await asyncio.gather(*(submit() for _ in range(CALLERS)))
        looking.cancel()
    return answers, health


def percentile(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def print_figures(refused: int, seconds: list[float], health: list[float]) -> None:
    """Seen with `pytest -s`."""
    figures = {"refused": refused, "429 p99": percentile(seconds), "health p99": percentile(health)}
    print(json.dumps(figures))  # noqa: T201


@pytest.fixture
def without_worker(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(valkey.url, tmp_path_factory.mktemp("leaving"), ("api-0",)) as service:
        service.mend()
        yield service


def test_callers_that_leave_leave_nothing_behind(without_worker: Service) -> None:
    service = without_worker
    process = psutil.Process(service.api.process.pid)
    service.api.get("/health")
    before, clients = process.num_fds(), connections(service)

    with ExitStack() as stack:
        for what in ["cancel", "keep"] * LEAVERS:
            stack.enter_context(open_waiting_call(service.api.url, what))
        wait_until(lambda: len(ids(service, State.QUEUED)) == 2 * LEAVERS)

    wait_until(lambda: len(ids(service, State.CANCELLED)) == LEAVERS, lambda: str(len(ids(service, State.CANCELLED))))
    wait_until(lambda: process.num_fds() <= before + POOL)
    assert len(ids(service, State.QUEUED)) == LEAVERS
    assert connections(service) <= clients + POOL
    assert service.api.get("/health/live").status_code == 200


def ids(service: Service, state: State) -> list[str]:
    found: list[str] = service.store.zrange(f"{service.prefix}jobs:state:{state}", 0, -1)
    return found


def connections(service: Service) -> int:
    return len(service.store.client_list())
