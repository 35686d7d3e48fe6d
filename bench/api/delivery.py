"""The time from an image on disk to the clients that wait for it.

The kernel reports the moment at which the file gets its name (inotify): the client alone could not tell rendering from
delivery.
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

#: IN_MOVED_TO and IN_CREATE: images get their names by a link where the disk has links, else by a rename.
_NAMED = 0x80 | 0x100
_EVENT = struct.Struct("iIII")
#: Long enough that the job runs, and the client waits, before the image is done.
RENDER_SECONDS = 0.03
PER_ROUND = 15
#: Submits a job to this URL and waits for it: its id, and when the client knew of its image.
ClientCall = Callable[[str], Awaitable[tuple[str, float]]]


class FileNames:
    """When each file of a folder got its name, in seconds of time.perf_counter."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC)
        assert libc.inotify_add_watch(self._descriptor, str(folder).encode(), _NAMED) >= 0, os.strerror(
            ctypes.get_errno()
        )
        self._moments: dict[str, float] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def named_at(self, job_id: str) -> float:
        name, end = f"{job_id}-0.png", time.monotonic() + 5
        # On a busy machine the thread may read the name after the client has the image.
        while name not in self._moments and time.monotonic() < end:
            time.sleep(0.001)
        return self._moments[name]

    def _read(self) -> None:
        while True:
            events, now, start = os.read(self._descriptor, 65536), time.perf_counter(), 0
            while start < len(events):
                length = _EVENT.unpack_from(events, start)[3]
                start += _EVENT.size + length
                self._moments[events[start - length : start].rstrip(b"\0").decode()] = now


@contextmanager
def watched(outputs: Path) -> Iterator[FileNames]:
    folder = outputs / f"{datetime.now(UTC):%Y/%m/%d}"
    folder.mkdir(parents=True, exist_ok=True)
    yield FileNames(folder)


def measure(scale: Scale) -> Iterator[Figure]:
    with service("null") as stack, watched(stack.outputs) as files:
        calls = (("sync", synchronous, 5), ("SSE", streamed, 5), ("OpenAI stream", completed, 25))
        for name, call, goal in calls:
            rounds = []
            for number in range(1, scale.rounds + 1):
                scale.show_progress(f"file to client, {name}: round {number} of {scale.rounds}")
                rounds.append(asyncio.run(measure_delays(stack.api.url, files, call)))
            yield from figures(f"file renamed to byte at the client, {name}", rounds, goal, 25)


def figures(name: str, rounds: list[list[float]], p50: float, p99: float | None = None) -> Iterator[Figure]:
    """The median and the 99th percentile of delays in seconds, with their goals in milliseconds."""
    every = [delay * 1000 for delays in rounds for delay in delays]
    for percent, goal in ((50, p50), (99, p99)):
        values = tuple(percentile([delay * 1000 for delay in delays], percent) for delays in rounds)
        yield Figure(f"{name}, p{percent}", percentile(every, percent), "ms", Goal(goal) if goal else None, values)


async def measure_delays(url: str, files: FileNames, call: ClientCall) -> list[float]:
    delays = []
    for _ in range(PER_ROUND):
        job_id, moment = await call(url)
        delays.append(moment - files.named_at(job_id))
    return delays


BODY = {"prompt": "x", "metadata": {"simulate": {"seconds": RENDER_SECONDS}}}


async def synchronous(url: str) -> tuple[str, float]:
    connection = await Connection.open(url)
    response = await connection.call("POST", "/api/txt2img", BODY)
    moment = time.perf_counter()
    connection.close()
    return response.json()["id"], moment


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


async def completed(url: str) -> tuple[str, float]:
    connection = await Connection.open(url)
    async for event in connection.events("/v1/images/generations", {**BODY, "stream": True, "partial_images": 1}):
        if event.endswith("completed"):
            break
    moment = time.perf_counter()
    connection.close()
    return connection.job_id, moment
