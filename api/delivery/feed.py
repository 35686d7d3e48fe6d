"""Follows all jobs of an owner: live events, the latest ones again after a broken connection, and one read per event
for all listeners of this process."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from functools import partial

from api.delivery.events import (
    EVERY_JOB,
    PING_SECONDS,
    TRANSIENT,
    EventHub,
    Listener,
    retry_until_available,
    stream_position,
)
from shared.jobs.snapshots import JobEvent, JobSnapshot

#: State changes that a stream can resume after, and jobs whose owner is remembered.
MAX_HISTORY, MAX_OWNERS = 2000, 5000
#: Reads that listeners share. Every listener needs a read within milliseconds of the event.
MAX_READS = 256


class EventHistory:
    """The latest state changes of all jobs. It knows from when on it has all of them."""

    def __init__(self) -> None:
        self._events: deque[JobEvent] = deque()
        self._complete_since: int | None = None
        self.last_id = ""

    def add(self, event: JobEvent) -> None:
        if event.type in TRANSIENT:
            return
        if _milliseconds(event.id) < _milliseconds(self.last_id):
            # The clock of Redis was set back, so ids no longer give the order.
            self.start_over()
        self.last_id = event.id
        if self._complete_since is None:
            self._complete_since = _milliseconds(event.id)
        if event.type != "progress":
            self._events.append(event)
        if len(self._events) > MAX_HISTORY:
            self._complete_since = _milliseconds(self._events.popleft().id) + 1

    def start_over(self) -> None:
        """Events may have been missed."""
        self._events.clear()
        self._complete_since, self.last_id = None, ""

    def since(self, last_id: str) -> list[JobEvent] | None:
        """The state changes after an event, and those in its millisecond; None if some may be missing."""
        if self._complete_since is None or not last_id:
            return None
        if not self._complete_since <= _milliseconds(last_id) <= _milliseconds(self.last_id):
            return None
        return [event for event in self._events if _milliseconds(event.id) >= _milliseconds(last_id)]


#: An event of a visible job, with the job for `state` and `done`. `sync` says that events may have been missed.
FeedEvent = tuple[JobEvent, JobSnapshot | None]


class JobFeed:
    def __init__(self, hub: EventHub) -> None:
        self._hub = hub
        self._history = EventHistory()
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._reads: OrderedDict[tuple[str, str], asyncio.Task[JobSnapshot | None]] = OrderedDict()
        hub.on_event, hub.on_gap = self._history.add, self._history.start_over

    async def follow(self, owner: str | None, last_id: str) -> AsyncIterator[FeedEvent | None]:
        """The events of the owner's jobs (None: of all jobs) after `last_id`, until the process stops.

        None stands for silence (see PING_SECONDS).
        """
        with self._hub.listen(EVERY_JOB) as listener:
            missed = self._history.since(last_id)
            if missed is None:
                yield self._sync()
            for event in missed or ():
                if (visible := await self._resolve(event, owner)) is not None:
                    yield visible
            async for live in self._live(listener, owner):
                yield live

    async def _live(self, listener: Listener, owner: str | None) -> AsyncIterator[FeedEvent | None]:
        while not listener.closed:
            last_sent = time.monotonic()
            async for event in listener.live_events(""):
                visible = None if event is None else await self._resolve(event, owner)
                # Events of others are silence as well.
                if visible is not None or time.monotonic() >= last_sent + PING_SECONDS:
                    last_sent = time.monotonic()
                    yield visible
            yield self._sync()

    def _sync(self) -> FeedEvent:
        return JobEvent("", self._history.last_id, "sync", "{}"), None

    async def _resolve(self, event: JobEvent, owner: str | None) -> FeedEvent | None:
        """None for a job that is deleted or that the owner may not see."""
        snapshot = None
        if event.type in ("state", "done") or (owner is not None and event.job_id not in self._owners):
            snapshot = await self._read(event)
            if snapshot is None:
                return None
        if owner is not None and self._owners.get(event.job_id) != owner:
            return None
        return event, snapshot

    async def _read(self, event: JobEvent) -> JobSnapshot | None:
        key = event.job_id, event.id
        reading = self._reads.get(key)
        if reading is None:
            read = partial(self._hub.store.run, self._hub.jobs.read(event.job_id))
            reading = self._reads[key] = asyncio.create_task(retry_until_available(read))
            if len(self._reads) > MAX_READS:
                self._reads.popitem(last=False)
        # A listener that disconnects must not cancel the read for the others.
        snapshot = await asyncio.shield(reading)
        if snapshot is not None:
            self._owners[event.job_id] = snapshot.job.owner
            if len(self._owners) > MAX_OWNERS:
                self._owners.popitem(last=False)
        return snapshot


def _milliseconds(event_id: str) -> int:
    return stream_position(event_id)[0]
