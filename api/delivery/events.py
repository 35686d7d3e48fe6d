"""How news of jobs reaches those who wait: one subscriber a process, fanned out in memory."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import redis.asyncio
import redis.exceptions
from fastapi.sse import format_sse_event

from shared.errors import JobNotFound, StoreUnavailable
from shared.jobs.operations import Jobs
from shared.jobs.snapshots import JobEvent, JobSnapshot
from shared.redis.store import AsyncStore

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Events a slow listener may be behind before it is told to read the record instead.
BACKLOG = 128
RECONNECT_SECONDS = 0.5
#: A comment keeps proxies from closing a silent stream.
PING_SECONDS = 15


class Listener:
    """What one waiter hears of one job. Bounded: who falls behind is told to catch up from the store."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[JobEvent | None] = asyncio.Queue(BACKLOG)
        self.closed = False

    async def next_event(self) -> JobEvent | None:
        """The next event, or None when some may have been missed."""
        return await self._heard.get()

    def notify(self, event: JobEvent | None) -> None:
        if event is None or self._heard.full():
            while not self._heard.empty():
                self._heard.get_nowait()
            event = None
        self._heard.put_nowait(event)


class EventHub:
    """Hears every event on one connection and passes it to the listeners of its job."""

    def __init__(self, client: redis.asyncio.Redis, channel: str) -> None:
        self._client = client
        self._channel = channel
        self._listeners: dict[str, set[Listener]] = {}
        #: Set when the process is about to end: nobody should go on waiting.
        self.closing = asyncio.Event()

    @contextmanager
    def listen(self, job_id: str) -> Iterator[Listener]:
        """Begin before the record is read, so that nothing falls between the two."""
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
        """How many listeners there are."""
        return sum(map(len, self._listeners.values()))

    async def run(self) -> None:
        """Listen until cancelled. After each lost connection every listener is told that it may have missed news."""
        try:
            while True:
                await self._listen()
                await asyncio.sleep(RECONNECT_SECONDS)
        finally:
            await self._client.aclose(close_connection_pool=True)

    async def _listen(self) -> None:
        try:
            async with self._client.pubsub() as pubsub:
                await pubsub.subscribe(self._channel)
                await self._forward(pubsub)
        except (redis.exceptions.RedisError, OSError) as error:
            logger.warning("the event subscription was lost (%s); subscribing again", type(error).__name__)

    async def _forward(self, pubsub: redis.asyncio.client.PubSub) -> None:
        while True:
            # The timeout lets redis-py ping a silent connection, and so notice when it is dead.
            match await pubsub.get_message(timeout=10):
                case {"type": "subscribe"}:
                    # The server's word that from now on nothing is missed; redis-py may also subscribe anew by itself.
                    self._ask_all_to_catch_up()
                case {"type": "message", "data": str(text)}:
                    for listener in self._listeners.get(text.partition(" ")[0], ()):
                        listener.notify(JobEvent.parse(text))

    def _ask_all_to_catch_up(self) -> None:
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.notify(None)


async def wait_until_done(store: AsyncStore, jobs: Jobs, listener: Listener, job_id: str) -> JobSnapshot:
    """The finished job. A store that is away is waited for: the job was accepted and goes on.

    Raises JobNotFound when the record is gone.
    """
    while True:
        event = await listener.next_event()
        if event is None or event.type == "done":
            snapshot = await retry_until_available(lambda: read_job(store, jobs, job_id))
            if snapshot.job.state.is_terminal:
                return snapshot


async def retry_until_available(call: Callable[[], Awaitable[T]]) -> T:
    """The result of a call, repeated for as long as the store is away."""
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
    """Every event after `last` ('' for all) up to the end of the job, or until the listener is closed.

    None stands for PING_SECONDS of silence.
    """
    while not listener.closed:
        unread = jobs.read_events(job_id, last)
        for event in await retry_until_available(partial(store.run, unread)):
            last = event.id
            yield event
            if event.type == "done":
                return
        async for heard in _live_events(listener, last):
            if heard is not None and heard.type != "preview":
                last = heard.id
            yield heard
            if heard is not None and heard.type == "done":
                return


async def _live_events(listener: Listener, last: str) -> AsyncIterator[JobEvent | None]:
    """What is heard and was not on record yet, until something may have been missed."""
    while True:
        try:
            event = await asyncio.wait_for(listener.next_event(), PING_SECONDS)
        except TimeoutError:
            yield None
            continue
        if event is None:
            return
        if event.type == "preview" or stream_position(event.id) > stream_position(last):
            yield event


def stream_position(event_id: str) -> tuple[int, int]:
    """How event ids compare: they are Redis stream ids, `milliseconds-number`; '' comes first."""
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds or 0), int(number or 0)


def format_event(
    event: JobEvent | None, job: str = "", queue_position: int | None = None, wait: float | None = None
) -> bytes:
    """The event as the wire has it. `job` is the job as JSON, the data of the last event."""
    if event is None:
        return format_sse_event(comment="ping")
    match event.type:
        case "done":
            data = job
        case "state":
            place = {"queue_position": queue_position, "estimated_wait_seconds": wait}
            data = json.dumps({"id": event.job_id, "state": event.data, **place})
        case _:
            data = event.data
    return format_sse_event(event=event.type, id=None if event.type == "preview" else event.id, data_str=data)
