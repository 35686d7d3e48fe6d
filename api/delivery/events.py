"""Passes the events of jobs from Redis to waiting requests: one subscription per process, fanned out in memory."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import redis.exceptions
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event

from shared.errors import JobNotFound, StoreUnavailable
from shared.jobs.operations import Jobs
from shared.jobs.snapshots import JobEvent, JobSnapshot
from shared.redis.pipelining import MakeConnection
from shared.redis.store import AsyncStore
from shared.redis.subscription import subscribe

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Events that are not stored, have no id and are not repeated.
TRANSIENT = frozenset({"preview", "loading"})
#: Events that wait for a slow listener. Beyond that it must read the record instead.
BACKLOG = 128
RECONNECT_SECONDS = 0.5
#: What a listener to the events of all jobs listens to.
EVERY_JOB = "*"
#: Pings keep proxies from closing a silent stream.
PING_SECONDS = 15


class Listener:
    """The events of one job for one waiting request. A listener that falls behind must catch up from Redis."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[JobEvent | None] = asyncio.Queue(BACKLOG)
        self.closed = False

    async def next_event(self) -> JobEvent | None:
        """The next event, or None if events may have been missed."""
        return await self._events.get()

    def notify(self, event: JobEvent | None) -> None:
        if event is None or self._events.full():
            while not self._events.empty():
                self._events.get_nowait()
            event = None
        self._events.put_nowait(event)


class EventHub:
    """Receives all events on one connection and passes each to the listeners of its job."""

    def __init__(self, make_connection: MakeConnection, store: AsyncStore, jobs: Jobs) -> None:
        self._make_connection = make_connection
        self._channel = jobs.channel
        self._ping = partial(store.run, jobs.ping_listeners())
        self._listeners: dict[str, set[Listener]] = {}
        #: Called with each event, and when events may have been missed.
        self.on_event: Callable[[JobEvent], None] = lambda _: None
        self.on_gap: Callable[[], None] = lambda: None
        #: Set when the process stops, so that requests stop waiting.
        self.closing = asyncio.Event()

    @contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        """Listen to a job, or to EVERY_JOB. Start before reading its record, so that no event is missed in between."""
        listener = Listener()
        self._listeners.setdefault(job_id, set()).add(listener)
        try:
            yield listener
        finally:
            listeners = self._listeners[job_id]
            listeners.discard(listener)
            if not listeners:
                del self._listeners[job_id]

    def close(self) -> None:
        self.closing.set()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.closed = True
                listener.notify(None)

    @property
    def listener_count(self) -> int:
        return sum(map(len, self._listeners.values()))

    async def run(self) -> None:
        """Receive until cancelled. All listeners catch up after a reconnection, because they may have missed events."""
        while True:
            await self._subscribe()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _subscribe(self) -> None:
        connection = self._make_connection()
        try:
            async for message in subscribe(connection, self._channel, self._ping):
                if message is None:
                    self._catch_up_all()
                else:
                    self._notify(JobEvent.parse(message))
        except (redis.exceptions.RedisError, OSError) as error:
            logger.warning("lost the event subscription (%s); subscribing again", type(error).__name__)
        except Exception:
            # Every waiting request depends on this task: it must not end.
            logger.exception("the event subscription failed; subscribing again")
        finally:
            await connection.disconnect(nowait=True)

    def _notify(self, event: JobEvent) -> None:
        self.on_event(event)
        for job_id in (event.job_id, EVERY_JOB):
            for listener in self._listeners.get(job_id, ()):
                listener.notify(event)

    def _catch_up_all(self) -> None:
        self.on_gap()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.notify(None)


async def wait_until_done(store: AsyncStore, jobs: Jobs, listener: Listener, job_id: str) -> JobSnapshot:
    """The finished job. Waits also while Redis is away, because an accepted job goes on. Raises JobNotFound."""
    while True:
        event = await listener.next_event()
        if event is None or event.type == "done":
            snapshot = await retry_until_available(lambda: read_job(store, jobs, job_id))
            if snapshot.job.state.is_terminal:
                return snapshot


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """Repeat a call until it no longer raises StoreUnavailable."""
    while True:
        try:
            return await call()
        except StoreUnavailable:
            await asyncio.sleep(RECONNECT_SECONDS)


async def read_job(store: AsyncStore, jobs: Jobs, job_id: str, owner: str | None = None) -> JobSnapshot:
    """Raises JobNotFound and StoreUnavailable."""
    snapshot = await store.run(jobs.read(job_id, owner))
    if snapshot is None:
        raise JobNotFound
    return snapshot


async def job_events(
    store: AsyncStore, jobs: Jobs, listener: Listener, job_id: str, last: str
) -> AsyncIterator[JobEvent | None]:
    """All events after the id `last` ('' for all) until the job ends or the listener is closed.

    None stands for PING_SECONDS of silence.
    """
    while not listener.closed:
        recorded = jobs.read_events(job_id, last)
        for event in await retry_until_available(partial(store.run, recorded)):
            last = event.id
            yield event
            if event.type == "done":
                return
        async for live in live_events(listener, last):
            if live is not None and live.type not in TRANSIENT:
                last = live.id
            yield live
            if live is not None and live.type == "done":
                return


async def live_events(listener: Listener, last: str) -> AsyncIterator[JobEvent | None]:
    """New events as they arrive, until some may have been missed."""
    while True:
        try:
            event = await asyncio.wait_for(listener.next_event(), PING_SECONDS)
        except TimeoutError:
            yield None
            continue
        if event is None:
            return
        if event.type in TRANSIENT or stream_position(event.id) > stream_position(last):
            yield event


def stream_position(event_id: str) -> tuple[int, int]:
    """A sortable form of an event id, which is a Redis stream id (`milliseconds-number`); '' sorts first."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds or 0), int(number or 0)


def format_event(
    event: JobEvent | None, job: str = "", queue_position: int | None = None, wait: float | None = None
) -> bytes:
    """The event as Server-Sent Events have it. `job` is the job as JSON, for the last event."""
    if event is None:
        return format_sse_event(comment="ping")
    match event.type:
        case "done":
            data = job
        case "state":
            queue = {"queue_position": queue_position, "estimated_wait_seconds": wait}
            data = json.dumps({"id": event.job_id, "state": event.data, **queue})
        case _:
            data = event.data
    return format_sse_event(event=event.type, id=None if event.type in TRANSIENT else event.id, data_str=data)


def event_stream(events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> StreamingResponse:
    """The answer with these Server-Sent Events, which no proxy may hold back."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
