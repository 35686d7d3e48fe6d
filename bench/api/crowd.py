"""Many clients: pollers, event streams and submits at the same time; then as many requests as connections allow."""

import asyncio
import time
from collections.abc import Iterator

from bench.figures import Figure, Goal, Scale, percentile
from bench.http import Connection, connections
from bench.service import service

POLLERS, STREAMS, SUBMITS_PER_SECOND, POLLS_PER_SECOND = 100, 50, 5, 2
CLOSED_LOOP = 200
#: The streamed job lasts longer than the measurement.
LONG = {"prompt": "x", "metadata": {"simulate": {"seconds": 600}}, "num_inference_steps": 150}


class Crowd:
    """Counts errors, and the seconds per response."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._end = 0.0
        self.errors = 0
        self.durations: list[float] = []

    async def mixed(self, watched: str) -> None:
        async with connections(self._url, POLLERS + 1) as pollers, connections(self._url, STREAMS) as streams:
            submitter, open_ = pollers.pop(), [asyncio.Event() for _ in streams]
            listening = [asyncio.create_task(self._listen(c, watched, e)) for c, e in zip(streams, open_, strict=True)]
            await asyncio.gather(*(event.wait() for event in open_))
            self._end = time.monotonic() + self._seconds
            pause = 1 / POLLS_PER_SECOND
            polls = [
                self._every(pause, c, "GET", f"/api/jobs/{watched}", after=pause * number / POLLERS)
                for number, c in enumerate(pollers)
            ]
            submits = self._every(1 / SUBMITS_PER_SECOND, submitter, "POST", "/api/jobs", {"prompt": "x"})
            await asyncio.gather(submits, *polls)
            for task in listening:
                # The job still runs, so the server must have closed a stream that has ended.
                self.errors += task.done()
                task.cancel()
            await asyncio.gather(*listening, return_exceptions=True)

    async def closed_loop(self, watched: str) -> None:
        self._end = time.monotonic() + self._seconds
        async with connections(self._url, CLOSED_LOOP) as opened:
            await asyncio.gather(*(self._every(0, c, "GET", f"/api/jobs/{watched}") for c in opened))

    async def _every(
        self, pause: float, connection: Connection, method: str, path: str, body: object = None, after: float = 0
    ) -> None:
        # Independent clients do not all call at the same moment.
        await asyncio.sleep(after)
        while time.monotonic() < self._end:
            begin = time.perf_counter()
            try:
                response = await connection.call(method, path, body)
            except (OSError, EOFError):
                self.errors += 1
                return
            duration = time.perf_counter() - begin
            self.durations.append(duration)
            self.errors += response.status >= 400
            if pause:
                await asyncio.sleep(max(0, pause - duration))

    async def _listen(self, connection: Connection, watched: str, is_open: asyncio.Event) -> None:
        async for _ in connection.events(f"/api/jobs/{watched}/events"):
            is_open.set()


def measure(scale: Scale) -> Iterator[Figure]:
    with service("null", SD_MAX_QUEUED_JOBS="100000") as stack:
        watched = stack.api.post("/api/jobs", LONG).json()["id"]
        # The watched job occupies the first worker: this one runs the submitted jobs.
        stack.start_worker("null")
        crowd = f"{POLLERS} pollers at {POLLS_PER_SECOND} Hz, {STREAMS} SSE, {SUBMITS_PER_SECOND} submits/s"
        rounds, errors = [], 0
        for number in range(1, scale.rounds + 1):
            scale.show_progress(f"{crowd}: round {number} of {scale.rounds}")
            mixed = Crowd(stack.api.url, scale.seconds / scale.rounds)
            asyncio.run(mixed.mixed(watched))
            rounds.append(mixed.durations)
            errors += mixed.errors
        values = tuple(percentile(durations, 99) * 1000 for durations in rounds)
        every = [duration * 1000 for durations in rounds for duration in durations]
        yield Figure(f"{crowd}: answers, p99", percentile(every, 99), "ms", Goal(25), values)
        yield Figure(f"{crowd}: errors", errors, "errors", Goal(0), detail=f"{len(every)} answers")
        scale.show_progress(f"{CLOSED_LOOP} connections in a closed loop")
        loop = Crowd(stack.api.url, scale.seconds / 2)
        asyncio.run(loop.closed_loop(watched))
        detail = f"{len(loop.durations)} answers, p99 {percentile(loop.durations, 99) * 1000:.0f} ms"
        yield Figure(f"{CLOSED_LOOP} closed-loop connections: errors", loop.errors, "errors", Goal(0), detail=detail)
