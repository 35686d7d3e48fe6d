"""Submitting, claiming and listing with a hundred thousand queued jobs."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psutil
import redis

from bench.figures import Figure, Goal, Scale, percentile
from bench.http import Connection, connections
from bench.service import service
from shared.jobs.admission import QueueLimits
from shared.jobs.job import Job
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from tests.stack import Stack

QUEUED = 100_000
#: Created per round trip.
CHUNK = 200
CALLS = 200
OWNERS = ("a", "b")


def measure(scale: Scale) -> Iterator[Figure]:
    if not scale.thorough:
        return
    with service("null", SD_MAX_QUEUED_JOBS="1000000") as stack:
        # The only worker must not claim jobs meanwhile.
        stack.worker.stop()
        housekeeper = psutil.Process(stack.start_housekeeper().pid)
        jobs, store = Jobs(stack.prefix), Store(connect(stack.settings["SD_REDIS_URL"]))
        _fill(scale, store, jobs)
        submits, lists = asyncio.run(_http(stack, "POST", "/api/jobs")), asyncio.run(_http(stack, "GET", "/api/jobs"))
        claims = _timed(lambda: _claim(store, jobs))
        with redis.Redis.from_url(stack.settings["SD_REDIS_URL"]) as client:
            used = client.info("memory")["used_memory"] / 1e6
        scale.show_progress("the housekeeper beside them")
        time.sleep(10)
        resident = housekeeper.memory_info().rss / 1e6
    condition = f"{QUEUED:,} jobs queued".replace(",", " ")
    yield Figure(f"{condition}: submit, p99", percentile(submits, 99) * 1000, "ms", Goal(10))
    yield Figure(f"{condition}: claim, p99", percentile(claims, 99) * 1000, "ms", Goal(2))
    yield Figure(f"{condition}: list, p99", percentile(lists, 99) * 1000, "ms", Goal(20))
    yield Figure(f"{condition}: Redis", used, "MB", Goal(300))
    yield Figure(f"{condition}: housekeeper", resident, "MB", Goal(120))


def _fill(scale: Scale, store: Store, jobs: Jobs) -> None:
    limits = QueueLimits(10**6, 10**6)
    for done in range(0, QUEUED, CHUNK):
        scale.show_progress(f"queue: {done} of {QUEUED} jobs")
        new = (_job(number) for number in range(done, done + CHUNK))
        store.run_all([jobs.create(job, limits) for job in new])


def _job(number: int) -> Job:
    request = GenerationRequest(prompt=f"a red heart on a blue background, number {number}")
    return Job.new(request, Backend.NULL, datetime.now(UTC), OWNERS[number % len(OWNERS)])


def _claim(store: Store, jobs: Jobs) -> None:
    job = store.run(jobs.peek_queue(Backend.NULL, 16))[0].job
    assert store.run(jobs.move(job, job.start("null", "bench", datetime.now(UTC))))


def _timed(call: Callable[[], None]) -> list[float]:
    durations = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begin)
    return durations


async def _http(stack: Stack, method: str, path: str) -> list[float]:
    async def call(connection: Connection) -> float:
        begin = time.perf_counter()
        response = await connection.call(method, path, {"prompt": "x"} if method == "POST" else None)
        assert response.status < 300, response.body
        return time.perf_counter() - begin

    async with connections(stack.api.url, 1) as (connection,):
        return [await call(connection) for _ in range(CALLS)]
