"""Polls for the progress of a job in other protocols: how many calls to Redis each takes, and how many are answered."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

import redis

from bench.figures import Figure, Goal, Scale
from bench.http import Connection, connections
from bench.service import service
from shared.access.sessions import CallerSessions
from shared.redis.store import Store, connect
from tests.stack import Stack

CLIENTS = 16
#: Runs all the time; few steps, because each is a call to Redis as well.
LONG = {"prompt": "x", "metadata": {"simulate": {"seconds": 600}}, "num_inference_steps": 10}
#: Without keys, callers are known by their address.
CALLER = "@127.0.0.1"
#: Paths to poll, and how many calls to Redis a poll may take. Those of A1111 share one answer; the others read the job.
PATHS = {
    "A1111": ("/sdapi/v1/progress", 0.1),
    "Replicate": ("/v1/predictions/{job}", 1.2),
    "fal": ("/fal/null/requests/{job}/status", 1.2),
}


@dataclass(frozen=True)
class Polls:
    statuses: list[int]
    calls: int
    """To Redis."""
    seconds: float


def measure(scale: Scale) -> Iterator[Figure]:
    with service("null") as stack:
        job = stack.api.post("/api/jobs", LONG).json()["id"]
        Store(connect(stack.settings["SD_REDIS_URL"])).run(CallerSessions(stack.prefix).set_job(CALLER, job))
        for protocol, (path, most) in PATHS.items():
            scale.show_progress(f"polls of {protocol}")
            polls = _polls(stack, path.format(job=job), scale.seconds / len(PATHS))
            answered, errors = len(polls.statuses), sum(status >= 400 for status in polls.statuses)
            detail = f"{answered / polls.seconds:.0f} polls a second, {CLIENTS} clients"
            yield Figure(f"calls to Redis per poll, {protocol}", polls.calls / answered, goal=Goal(most), detail=detail)
            yield Figure(f"polls, {protocol}: errors", errors, "errors", Goal(0), detail=f"{answered} answers")


def _polls(stack: Stack, path: str, seconds: float) -> Polls:
    with redis.Redis.from_url(stack.settings["SD_REDIS_URL"]) as client:
        before, begin = _calls(client), time.perf_counter()
        statuses = asyncio.run(_poll_together(stack.api.url, path, seconds))
        return Polls(statuses, _calls(client) - before, time.perf_counter() - begin)


def _calls(client: redis.Redis) -> int:
    """Of scripts: every operation of the service is one."""
    calls: int = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
    return calls


async def _poll_together(url: str, path: str, seconds: float) -> list[int]:
    end, statuses = time.monotonic() + seconds, list[int]()

    async def poll(connection: Connection) -> None:
        while time.monotonic() < end:
            statuses.append((await connection.call("GET", path)).status)

    async with connections(url, CLIENTS) as opened:
        await asyncio.gather(*map(poll, opened))
    return statuses
