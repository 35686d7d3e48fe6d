"""Many concurrent callers: with one key, beyond the limit, and disconnecting."""

import asyncio
import json
import select
import socket
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
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
from tests.support.polling import wait_until
from tests.support.valkey import Valkey

DISCONNECTING = 100
MAX_QUEUED = 50
FLOOD, CALLERS = 600, 64
#: Slower than it is submitted, also on a busy machine.
JOB = {"prompt": "x", "metadata": {"simulate": {"seconds": 0.03}}}
#: Callers are answered within this time; on an idle machine within a second.
MAX_SECONDS = 20.0
#: Files and connections to Redis that processes may have opened meanwhile. An API has two connections.
SPARE = 8


@pytest.fixture(scope="module")
def crowded(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A worker, and an API with a short queue."""
    folder = tmp_path_factory.mktemp("crowded")
    with Service(valkey.url, folder, ("null-0", "api-0"), SD_MAX_QUEUED_JOBS=str(MAX_QUEUED)) as crowded:
        crowded.start_missing()
        yield crowded


@pytest.fixture
def service(crowded: Service) -> Iterator[Service]:
    yield crowded
    Invariant(crowded).wait_and_check(crowded.accepted)


def test_fifty_concurrent_requests_with_one_key_get_one_job(service: Service) -> None:
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


def test_a_full_queue_refuses_soon_and_with_retry_after(service: Service) -> None:
    answers, health = asyncio.run(flood(service))

    service.accepted |= {answer.headers["x-job-id"] for answer, _ in answers if answer.status_code == 202}
    refused = [(answer, seconds) for answer, seconds in answers if answer.status_code == 429]
    assert {answer.status_code for answer, _ in answers} == {202, 429}
    assert all(int(answer.headers["retry-after"]) > 0 for answer, _ in refused)
    assert percentile([seconds for _, seconds in refused]) < MAX_SECONDS
    assert percentile(health) < MAX_SECONDS
    print_figures(len(refused), [seconds for _, seconds in refused], health)


async def flood(service: Service) -> tuple[list[tuple[httpx2.Response, float]], list[float]]:
    """All answers to submissions with their durations, and the durations of concurrent calls of /health."""
    answers: list[tuple[httpx2.Response, float]] = []
    health: list[float] = []
    remaining = iter(range(FLOOD))
    limits = httpx2.Limits(max_connections=CALLERS + 1)

    async with httpx2.AsyncClient(base_url=service.api.url, timeout=30, limits=limits) as http:

        async def submit() -> None:
            for _ in remaining:
                begin = time.monotonic()
                answers.append((await http.post("/api/jobs", json=JOB), time.monotonic() - begin))

        async def probe() -> None:
            while True:
                begin = time.monotonic()
                (await http.get("/health")).raise_for_status()
                health.append(time.monotonic() - begin)

        probing = asyncio.create_task(probe())
        await asyncio.gather(*(submit() for _ in range(CALLERS)))
        probing.cancel()
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
        service.start_missing()
        yield service


def test_disconnected_callers_leave_no_connections_behind(without_worker: Service) -> None:
    service = without_worker
    process = psutil.Process(service.api.process.pid)
    service.api.get("/health")
    before, clients = process.num_fds(), connections(service)

    with ExitStack() as stack:
        choices = ["cancel", "keep"] * DISCONNECTING
        calls = [stack.enter_context(open_waiting_call(service.api.url, choice)) for choice in choices]
        wait_until(
            lambda: len(ids(service, State.QUEUED)) == 2 * DISCONNECTING,
            lambda: f"{len(ids(service, State.QUEUED))} jobs wait, {answers(calls)}\n{service.api.process.output}",
        )

    wait_until(
        lambda: len(ids(service, State.CANCELLED)) == DISCONNECTING, lambda: str(len(ids(service, State.CANCELLED)))
    )
    wait_until(lambda: process.num_fds() <= before + SPARE)
    assert len(ids(service, State.QUEUED)) == DISCONNECTING
    assert connections(service) <= clients + SPARE
    assert service.api.get("/health/live").status_code == 200


def ids(service: Service, state: State) -> list[str]:
    return list(map(str, service.store.zrange(f"{service.prefix}jobs:state:{state}", 0, -1)))


def answers(calls: Sequence[socket.socket]) -> Counter[bytes]:
    """Those that have come already, each with how many calls got it."""
    return Counter(call.recv(1 << 16) for call in select.select(calls, [], [], 0)[0])


def connections(service: Service) -> int:
    return len(service.store.client_list())
