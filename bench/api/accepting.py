"""Jobs accepted per second, polls per second, and the memory of a queued job in Redis."""

import asyncio
import time
from collections.abc import Iterator

import psutil
import redis

from bench.figures import Figure, Goal, Scale, percentile
from bench.http import Connection, connections
from bench.service import service

CLIENTS, JOBS = 8, 1000
SUBMITS_PER_SECOND = 5
REQUEST = {"prompt": "a red heart on a blue background"}
#: Occupies the only worker.
LONG = {"prompt": "x", "metadata": {"simulate": {"seconds": 600}}, "num_inference_steps": 150}


def measure(scale: Scale) -> Iterator[Figure]:
    with (
        service("null", SD_MAX_QUEUED_JOBS="1000000") as stack,
        redis.Redis.from_url(stack.settings["SD_REDIS_URL"]) as client,
    ):
        watched = stack.api.post("/api/jobs", LONG).json()["id"]
        api, server = psutil.Process(stack.api.process.pid), psutil.Process(client.info("server")["process_id"])
        rounds = []
        before, spent = _used(client), (_seconds(api), _seconds(server))
        for number in range(1, scale.rounds + 1):
            scale.show_progress(f"accepting jobs of {CLIENTS} clients: round {number} of {scale.rounds}")
            rounds.append(asyncio.run(_accepted_per_second(stack.api.url)))
        accepted = JOBS * scale.rounds
        per_job = (_used(client) - before) / accepted / 1000
        api_ms, server_ms = (
            (_seconds(process) - begin) * 1000 / accepted for process, begin in zip((api, server), spent, strict=True)
        )
        scale.show_progress(f"polling while {SUBMITS_PER_SECOND} jobs a second come in")
        begin = _seconds(api)
        polls = asyncio.run(_polls(stack.api.url, watched, scale.seconds))
        poll_ms = (_seconds(api) - begin) * 1000 / len(polls)
    yield Figure(
        f"jobs accepted, {CLIENTS} clients",
        sorted(rounds)[len(rounds) // 2],
        "/s",
        Goal(700, at_least=True),
        tuple(rounds),
    )
    # A busy machine takes turns with others, but spends about the same time on a job.
    yield Figure("CPU per accepted job, API", api_ms, "ms", detail=f"Redis {server_ms:.2f} ms")
    yield Figure("Redis per waiting job", per_job, "kB", Goal(2.5))
    yield Figure(
        f"status poll while {SUBMITS_PER_SECOND} jobs/s come in, p50",
        percentile(polls, 50) * 1000,
        "ms",
        Goal(1.0),
        detail=f"{len(polls)} polls, each {poll_ms:.2f} ms of the API's CPU",
    )


async def _accepted_per_second(url: str) -> float:
    numbers = iter(range(JOBS))

    async def submit(connection: Connection) -> None:
        for number in numbers:
            response = await connection.call("POST", "/api/jobs", {**REQUEST, "seed": number})
            assert response.status == 202, response.body

    async with connections(url, CLIENTS) as opened:
        begin = time.perf_counter()
        await asyncio.gather(*map(submit, opened))
        return JOBS / (time.perf_counter() - begin)


async def _polls(url: str, job_id: str, seconds: float) -> list[float]:
    """Seconds per poll; one client polls without pause."""
    durations, end = list[float](), time.monotonic() + seconds

    async def submit(connection: Connection) -> None:
        while time.monotonic() < end:
            await connection.call("POST", "/api/jobs", REQUEST)
            await asyncio.sleep(1 / SUBMITS_PER_SECOND)

    async def poll(connection: Connection) -> None:
        while time.monotonic() < end:
            begin = time.perf_counter()
            await connection.call("GET", f"/api/jobs/{job_id}")
            durations.append(time.perf_counter() - begin)

    async with connections(url, 2) as (poller, submitter):
        await asyncio.gather(poll(poller), submit(submitter))
    return durations


def _seconds(process: psutil.Process) -> float:
    """CPU time of a process so far."""
    times = process.cpu_times()
    return times.user + times.system


def _used(client: redis.Redis) -> int:
    used: int = client.info("memory")["used_memory_dataset"]
    return used
