"""Answers frequent questions for the progress of jobs from memory: a job that is asked for is followed once."""

import asyncio
import json
import time
from collections import OrderedDict
from contextlib import suppress

from api.delivery.events import EventHub, read_job
from shared.access.sessions import CallerSessions
from shared.errors import JobNotFound, StoreUnavailable
from shared.jobs.job import Job, Progress
from shared.jobs.snapshots import JobEvent

#: A job that is not requested for this long is no longer followed.
IDLE_SECONDS = 30.0
#: Jobs and callers in memory; the oldest are forgotten first.
MAX_JOBS, MAX_CALLERS = 256, 4096
#: How long this process may miss a caller's newer job that another process accepted.
SESSION_SECONDS = 0.25


class LiveJob:
    """A job as its latest events describe it."""

    def __init__(self, job: Job, progress: Progress | None) -> None:
        self.job = job
        self.progress = progress
        self.preview: str | None = None
        """The newest preview as base64."""
        self.is_done = job.state.is_terminal
        """Set by the last event. The job itself is then still the one before, until its record is read."""
        self.asked_at = time.monotonic()

    @property
    def is_wanted(self) -> bool:
        """Whether it has not ended and was requested recently."""
        return not self.is_done and time.monotonic() - self.asked_at < IDLE_SECONDS

    def apply(self, event: JobEvent) -> None:
        match event.type:
            case "progress":
                self.progress = Progress.model_validate_json(event.data)
            case "preview":
                self.preview = json.loads(event.data)["b64_json"]
            case "done":
                self.is_done = True


class LiveJobs:
    """The newest job of each caller, and its progress."""

    def __init__(self, hub: EventHub, sessions: CallerSessions) -> None:
        self._hub = hub
        self._store = hub.store
        self._sessions = sessions
        self._newest: OrderedDict[str, tuple[str | None, float]] = OrderedDict()
        self._followed: OrderedDict[str, asyncio.Future[LiveJob]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    async def started(self, client_id: str, job_id: str) -> None:
        """Make this the newest job of a caller. While Redis is away, only this process knows it."""
        self._remember(client_id, job_id)
        with suppress(StoreUnavailable):
            await self._store.run(self._sessions.set_job(client_id, job_id))

    async def unfinished(self, client_id: str) -> LiveJob | None:
        """The newest job of a caller unless it has ended. Raises StoreUnavailable."""
        job_id, expires = self._newest.get(client_id, (None, 0.0))
        if time.monotonic() >= expires:
            if client_id in self._newest:
                # Polls that arrive during the read use the last answer, so that a crowd of them costs one read.
                self._remember(client_id, job_id)
            job_id = (await self._store.run(self._sessions.read(client_id))).job_id
            self._remember(client_id, job_id)
        if job_id is None:
            return None
        try:
            live = await self._get(job_id)
        except JobNotFound:
            return None
        live.asked_at = time.monotonic()
        return None if live.is_done else live

    def _remember(self, client_id: str, job_id: str | None) -> None:
        self._newest.pop(client_id, None)
        self._newest[client_id] = job_id, time.monotonic() + SESSION_SECONDS
        if len(self._newest) > MAX_CALLERS:
            self._newest.popitem(last=False)

    async def _get(self, job_id: str) -> LiveJob:
        """Raises JobNotFound and StoreUnavailable."""
        live = self._followed.get(job_id)
        if live is None:
            live = self._followed[job_id] = asyncio.get_running_loop().create_future()
            task = asyncio.create_task(self._follow(job_id, live))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if len(self._followed) > MAX_JOBS:
                self._followed.popitem(last=False)
        # A caller that disconnects must not cancel it for others.
        return await asyncio.shield(live)

    async def _follow(self, job_id: str, ready: "asyncio.Future[LiveJob]") -> None:
        """Keep a job up to date as long as somebody asks for it. One that has ended stays as it is."""
        live: LiveJob | None = None
        try:
            # Listening starts before the record is read, so that no event is missed.
            with self._hub.listen(job_id) as listener:
                live = await self._read(job_id, ready)
                while live.is_wanted and not listener.closed:
                    with suppress(TimeoutError):
                        event = await asyncio.wait_for(listener.next_event(), IDLE_SECONDS)
                        if event is not None:
                            live.apply(event)
                        if event is None or event.type in ("state", "done"):
                            await self._read(job_id, ready)
        except Exception as error:
            # Whatever it is, callers must not wait for ever.
            if not ready.done():
                ready.set_exception(error)
        if live is None or not live.job.state.is_terminal:
            self._followed.pop(job_id, None)

    async def _read(self, job_id: str, ready: "asyncio.Future[LiveJob]") -> LiveJob:
        snapshot = await read_job(self._store, self._hub.jobs, job_id)
        if not ready.done():
            ready.set_result(LiveJob(snapshot.job, snapshot.progress))
        live = ready.result()
        live.job, live.progress = snapshot.job, snapshot.progress or live.progress
        live.is_done = live.is_done or snapshot.job.state.is_terminal
        return live
