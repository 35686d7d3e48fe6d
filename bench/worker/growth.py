"""The memory that many jobs leave in the processes and in Redis."""

import asyncio
from collections.abc import Iterator

import psutil
import redis

from bench.figures import Figure, Goal, Scale
from bench.service import service
from bench.worker.throughput import jobs_per_second
from tests.stack import Stack

#: Fill allocators, pools and caches.
WARM_JOBS = 500
#: Between two lines of progress.
JOBS_PER_ROUND = 500


def measure(scale: Scale) -> Iterator[Figure]:
    with service("null") as stack:
        asyncio.run(jobs_per_second(stack.api.url, WARM_JOBS))
        before, used_before = _resident(stack), _redis_bytes(stack)
        for done in range(0, scale.jobs, JOBS_PER_ROUND):
            scale.show_progress(f"growth: {done} of {scale.jobs} jobs")
            asyncio.run(jobs_per_second(stack.api.url, min(JOBS_PER_ROUND, scale.jobs - done)))
        after, used_after = _resident(stack), _redis_bytes(stack)
    detail = f"after {WARM_JOBS} to warm up"
    for name in before:
        grown = (after[name] - before[name]) / 1e6
        yield Figure(f"growth of {name} over {scale.jobs} null jobs", grown, "MB", Goal(5), detail=detail)
    per_job = (used_after - used_before) / scale.jobs / 1000
    yield Figure("Redis per finished job", per_job, "kB", Goal(4), detail="while its events can still be resumed")


def _resident(stack: Stack) -> dict[str, int]:
    worker = psutil.Process(stack.worker.pid)
    # Python's resource tracker is a child, too, and small.
    child = max(worker.children(), key=lambda process: process.memory_info().rss)
    processes = {"api": psutil.Process(stack.api.process.pid), "worker": worker, "worker's child": child}
    return {name: process.memory_info().rss for name, process in processes.items()}


def _redis_bytes(stack: Stack) -> int:
    with redis.Redis.from_url(stack.settings["SD_REDIS_URL"]) as client:
        used: int = client.info("memory")["used_memory_dataset"]
    return used
