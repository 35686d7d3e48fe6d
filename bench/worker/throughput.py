"""Jobs per second of many clients, compared with bare Celery tasks with results."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.figures import Figure, Goal, Scale, compare
from bench.http import Connection, connections
from bench.service import service

CALLERS = 16
JOBS, TASKS = 300, 600


def measure(scale: Scale) -> Iterator[Figure]:
    with service("null") as stack, bare_celery(stack.settings["SD_REDIS_URL"]) as noops:

        def jobs() -> float:
            return asyncio.run(jobs_per_second(stack.api.url, JOBS))

        jobs(), noops()
        result = compare(jobs, noops, scale, "jobs beside bare Celery tasks")
    yield result.figure(
        "jobs/s, HTTP submit to done / bare Celery round trips with results",
        Goal(0.40, at_least=True),
        f"{result.our_median:.0f}/s, bare {result.their_median:.0f}/s",
    )


async def jobs_per_second(url: str, count: int) -> float:
    numbers = iter(range(count))

    async def call(connection: Connection) -> None:
        for number in numbers:
            response = await connection.call("POST", "/api/txt2img", {"prompt": "x", "seed": number})
            assert response.status == 200, response.body

    async with connections(url, CALLERS) as opened:
        begin = time.perf_counter()
        await asyncio.gather(*map(call, opened))
        return count / (time.perf_counter() - begin)


@contextmanager
def bare_celery(redis_url: str) -> Iterator["Noops"]:
    os.environ["BENCH_REDIS_URL"] = redis_url
    # Without output: INFO lines for each task would be extra work.
    options = ["worker", "--without-gossip", "--without-mingle", "--loglevel", "ERROR"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "bench.bare_celery", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Noops()
    finally:
        worker.terminate()
        worker.wait()


class Noops:
    def __call__(self) -> float:
        from bench.bare_celery import noop

        begin = time.perf_counter()
        results = [noop.delay(number) for number in range(TASKS)]
        for result in results:
            result.get(timeout=60)
        return TASKS / (time.perf_counter() - begin)
