"""Passes the events of jobs from Redis to waiting requests: one subscription per process, fanned out in memory."""

import asyncio
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

    def __init__(self, hub: "EventHub", job_id: str) -> None:
        self._hub = hub
        self._job_id = job_id
        self._events: asyncio.Queue[JobEvent | None] = asyncio.Queue(BACKLOG)

    @property
    def closed(self) -> bool:
        return self._hub.closing.is_set()

    async def next_event(self) -> JobEvent | None:
        """The next event, or None if events may have been missed."""
        return await self._events.get()

    def notify(self, event: JobEvent | None) -> None:
        if event is None or self._events.full():
            while not self._events.empty():
                self._events.get_nowait()
            event = None
        self._events.put_nowait(event)

    async def finished_job(self) -> JobSnapshot:
        """Waits for it also while Redis is away, because an accepted job goes on. Raises JobNotFound."""
        while True:
            event = await self.next_event()
            if event is None or event.type == "done":
                snapshot = await retry_until_available(lambda: read_job(self._hub.store, self._hub.jobs, self._job_id))
                if snapshot.job.state.is_terminal:
                    return snapshot

    async def events(self, last: str = "") -> AsyncIterator[JobEvent | None]:
        """All events after the id `last` until the job ends or the process stops.

        None stands for PING_SECONDS of silence.
        """
        while not self.closed:
            recorded = self._hub.jobs.read_events(self._job_id, last)
            for event in await retry_until_available(partial(self._hub.store.run, recorded)):
                last = event.id
                yield event
                if event.type == "done":
                    return
            async for live in self.live_events(last):
                if live is not None and live.type not in TRANSIENT:
                    last = live.id
                yield live
                if live is not None and live.type == "done":
                    return

    async def live_events(self, last: str) -> AsyncIterator[JobEvent | None]:
        """New events as they arrive, until some may have been missed."""
        while True:
            try:
                event = await asyncio.wait_for(self.next_event(), PING_SECONDS)
            except TimeoutError:
                yield None
                continue
            if event is None:
                return
            if event.type in TRANSIENT or stream_position(event.id) > stream_position(last):
                yield event


class EventHub:
    """Receives all events on one connection and passes each to the listeners of its job."""

    def __init__(self, make_connection: MakeConnection, store: AsyncStore, jobs: Jobs) -> None:
        self._make_connection = make_connection
        self.store = store
        self.jobs = jobs
        self._ping = partial(store.run, jobs.ping_listeners())
        #: Ends the present subscription at once.
        self._use: asyncio.Timeout | None = None
        store.on_replica(self._resubscribe)
        self._was_lost = False
        self._listeners: dict[str, set[Listener]] = {}
        #: Called with each event, and when events may have been missed.
        self.on_event: Callable[[JobEvent], None] = lambda _: None
        self.on_gap: Callable[[], None] = lambda: None
        #: Set when the process stops, so that requests stop waiting.
        self.closing = asyncio.Event()

    @contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        """Listen to a job, or to EVERY_JOB. Start before reading its record, so that no event is missed in between."""
        listener = Listener(self, job_id)
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
        self._catch_up_all()

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
            async with asyncio.timeout(None) as self._use:
                async for message in subscribe(connection, self.jobs.channel, self._ping):
                    if message is None:
                        self._was_lost = False
                        self.on_gap()
                        self._catch_up_all()
                    else:
                        self._notify(JobEvent.parse(message))
        except (redis.exceptions.RedisError, OSError) as error:
            # Once, however long the store is away.
            if not self._was_lost:
                logger.warning("lost the event subscription (%s); subscribing again", type(error).__name__)
            self._was_lost = True
        except Exception:
            # Every waiting request depends on this task: it must not end.
            logger.exception("the event subscription failed; subscribing again")
        finally:
            self._use = None
            await connection.disconnect(nowait=True)

    def _resubscribe(self) -> None:
        """A replica hears nothing until it is linked to its successor, and never of what was published before."""
        if self._use is not None:
            self._use.reschedule(asyncio.get_running_loop().time())
            self._use = None

    def _notify(self, event: JobEvent) -> None:
        self.on_event(event)
        for job_id in (event.job_id, EVERY_JOB):
            for listener in self._listeners.get(job_id, ()):
                listener.notify(event)

    def _catch_up_all(self) -> None:
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.notify(None)


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


def stream_position(event_id: str) -> tuple[int, int]:
    """A sortable form of an event id, which is a Redis stream id (`milliseconds-number`); '' sorts first."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds or 0), int(number or 0)


def format_event(event: JobEvent | None, data: str | None = None) -> bytes:
    """The event as Server-Sent Events have it, a ping for None. `data` replaces that of the event."""
    if event is None:
        return format_sse_event(comment="ping")
    event_id = None if event.type in TRANSIENT else event.id
    return format_sse_event(event=event.type, id=event_id, data_str=event.data if data is None else data)


def event_stream(events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> StreamingResponse:
    """The answer with these Server-Sent Events, which no proxy may hold back."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
