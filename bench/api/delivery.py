"""How long an image that lies on disk takes to reach those who wait for it.

The moment at which its file gets its name is taken from the kernel's own notice (inotify): a wait in the client's clock
alone could not tell rendering from telling.
"""

import asyncio
import ctypes
import os
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import Figure, Goal, Scale, percentile
from bench.http import Connection
from bench.service import service

_MOVED_TO = 0x80
_EVENT = struct.Struct("iIII")
#: So that the job is running, and everybody waits, before its image is done.
RENDER_SECONDS = 0.03
PER_ROUND = 15
#: Makes a job at this address and waits for it: its id, and when its image was told of.
Way = Callable[[str], Awaitable[tuple[str, float]]]


class Renames:
    """When each file of a folder got its name, by the name; in seconds of time.perf_counter."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._descriptor, str(folder).encode(), _MOVED_TO) >= 0, os.strerror(
            ctypes.get_errno()
        )
        self._moments: dict[str, float] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def of(self, job_id: str) -> float:
        return self._moments[f"{job_id}-0.png"]

    def _read(self) -> None:
        while True:
            events, now, start = os.read(self._descriptor, 65536), time.perf_counter(), 0
            while start < len(events):
                length = _EVENT.unpack_from(events, start)[3]
                start += _EVENT.size + length
                self._moments[events[start - length : start].rstrip(b"\0").decode()] = now


@contextmanager
def watched(outputs: Path) -> Iterator[Renames]:
    folder = outputs / f"{datetime.now(UTC):%Y/%m/%d}"
    folder.mkdir(parents=True, exist_ok=True)
    yield Renames(folder)


def measure(scale: Scale) -> Iterator[Figure]:
    with service("null") as stack, watched(stack.outputs) as renames:
        for name, way in (("sync", synchronous), ("SSE", streamed)):
            rounds = []
            for number in range(1, scale.rounds + 1):
                scale.say(f"file to client, {name}: round {number} of {scale.rounds}")
                rounds.append(asyncio.run(delays(stack.api.url, renames, way)))
            yield from figures(f"file renamed to byte at the client, {name}", rounds, 5, 25)


def figures(name: str, rounds: list[list[float]], p50: float, p99: float | None = None) -> Iterator[Figure]:
    """The median and the 99th percentile of delays in seconds, with their goals in milliseconds."""
    every = [delay * 1000 for delays in rounds for delay in delays]
    for percent, goal in ((50, p50), (99, p99)):
        values = tuple(percentile([delay * 1000 for delay in delays], percent) for delays in rounds)
        yield Figure(f"{name}, p{percent}", percentile(every, percent), "ms", Goal(goal) if goal else None, values)


async def delays(url: str, renames: Renames, way: Way) -> list[float]:
    found = []
    for _ in range(PER_ROUND):
        job_id, moment = await way(url)
        found.append(moment - renames.of(job_id))
    return found


BODY = {"prompt": "x", "metadata": {"simulate": {"seconds": RENDER_SECONDS}}}


async def synchronous(url: str) -> tuple[str, float]:
    connection = await Connection.open(url)
    answer = await connection.call("POST", "/api/txt2img", BODY)
    moment = time.perf_counter()
    connection.close()
    return answer.json()["id"], moment


async def streamed(url: str) -> tuple[str, float]:
    connection, stream = await Connection.open(url), await Connection.open(url)
    job_id = (await connection.call("POST", "/api/jobs", BODY)).json()["id"]
    async for event in stream.events(f"/api/jobs/{job_id}/events"):
        if event == "done":
            break
    moment = time.perf_counter()
    connection.close()
    stream.close()
    return job_id, moment
