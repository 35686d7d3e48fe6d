"""The record of jobs as a worker keeps it, in Redis."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from shared.errors import StoreUnavailable
from shared.jobs.job import Job, Progress, QueuedJob
from shared.jobs.operations import LEASE_MS, Jobs, ProgressReply
from shared.jobs.types import Backend
from shared.redis.store import Operation, Store
from worker.jobs.job_store import JobCancelled, JobLost
from worker.records.redis_retry import retry_until_available

logger = logging.getLogger(__name__)

#: Progress goes out at most this often: what tells and forwards it takes its time from a model on the same cores. A
#: silent job still asks this often whether it should stop.
MIN_INTERVAL_SECONDS = 0.25
HEARTBEAT_SECONDS = 1.0
#: A job whose lease was renewed so lately is certainly still its worker's.
CONFIRMED_SECONDS = LEASE_MS / 1000 / 4


class RedisJobStore:
    def __init__(
        self, store: Store, jobs: Jobs, backend: Backend, on_moved: Callable[[Job], None] = lambda _: None
    ) -> None:
        """`on_moved` hears of each job that this worker moved, on the thread that did."""
        self._store = store
        self._jobs = jobs
        self._backend = backend
        self._on_moved = on_moved
        self._reporter = ProgressReporter(store)

    def run(self, operation: Operation[Any]) -> None:
        """Record something that is not about a job."""
        retry_until_available(lambda: self._store.run(operation))

    def read(self, job_id: str) -> Job | None:
        snapshot = retry_until_available(lambda: self._store.run(self._jobs.read(job_id)))
        return snapshot.job if snapshot else None

    def peek(self, limit: int) -> Sequence[QueuedJob]:
        return retry_until_available(lambda: self._store.run(self._jobs.peek_queue(self._backend, limit)))

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        moved = retry_until_available(lambda: self._store.run_all([self._jobs.move(old, new) for old, new in moves]))
        # The answer to an attempt that did succeed may have been lost with the connection.
        ours = [done or self._is(new) for done, (_, new) in zip(moved, moves, strict=True)]
        for is_ours, (_, new) in zip(ours, moves, strict=True):
            if is_ours:
                self._on_moved(new)
        return ours

    def _is(self, job: Job) -> bool:
        held = self.read(job.id)
        return held is not None and held.model_copy(update={"providers": job.providers}) == job

    def save_provider_tasks(self, job: Job) -> bool:
        return retry_until_available(lambda: self._store.run(self._jobs.save_provider_tasks(job)))

    @contextmanager
    def open_channel(self, job: Job) -> Iterator["RedisProgressChannel"]:
        channel = RedisProgressChannel(self._jobs, job, self._reporter)
        with self._reporter.attached(channel):
            yield channel


class ProgressReporter:
    """One thread that speaks for all open channels, so that rendering never waits for Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._channels: list[RedisProgressChannel] = []
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    @contextmanager
    def attached(self, channel: "RedisProgressChannel") -> Iterator[None]:
        with self._changed:
            self._channels.append(channel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="reporter", daemon=True)
                self._thread.start()
        self.schedule(channel)
        try:
            yield
        finally:
            # A report that is under way is not waited for: one that comes too late is refused by its record.
            with self._changed:
                self._channels.remove(channel)

    def schedule(self, channel: "RedisProgressChannel") -> None:
        """If it would sleep for longer than the channel may wait: each time that it wakes, the model waits."""
        with self._changed:
            if channel.due_at < self._wakes_at:
                self._changed.notify()

    def report(self, channels: Sequence["RedisProgressChannel"]) -> None:
        """Tell what there is to tell, and hear what is wanted. What cannot be told now is told with the next step."""
        moment = _moment()
        reports = [channel.take_report() for channel in channels]
        with suppress(StoreUnavailable):
            for channel, verdict in zip(channels, self._store.run_all(reports), strict=True):
                channel.receive(verdict, moment)

    def _serve(self) -> None:
        while True:
            channels = self._next()
            try:
                self.report(channels)
            except Exception:
                # Leases are renewed here: whatever goes wrong once, the next round has to come.
                logger.exception("a report of running jobs failed")

    def _next(self) -> list["RedisProgressChannel"]:
        """The channels that have to report now, as soon as there is one."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [channel for channel in self._channels if channel.due_at <= now]
                if due:
                    return due
                self._wakes_at = min((channel.due_at for channel in self._channels), default=math.inf)
                self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


class RedisProgressChannel:
    """Only the latest progress counts: what is replaced before it could be told is never told."""

    def __init__(self, jobs: Jobs, job: Job, reporter: ProgressReporter) -> None:
        self._jobs = jobs
        self._job = job
        self._reporter = reporter
        self._progress: Progress | None = None
        self._preview = ""
        self._verdict = ProgressReply.CONTINUE
        self._reported_at = time.monotonic()
        self._confirmed_at = _moment()

    @property
    def due_at(self) -> float:
        """When to report next, by time.monotonic."""
        return self._reported_at + (MIN_INTERVAL_SECONDS if self._progress or self._preview else HEARTBEAT_SECONDS)

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._reporter.schedule(self)

    def preview(self, preview_json: str) -> None:
        self._preview = preview_json
        self._reporter.schedule(self)

    def check(self) -> None:
        match self._verdict:
            case ProgressReply.CANCEL:
                raise JobCancelled
            case ProgressReply.LOST:
                raise JobLost
            case ProgressReply.CONTINUE:
                return

    def confirm(self) -> None:
        if max(now - before for now, before in zip(_moment(), self._confirmed_at, strict=True)) > CONFIRMED_SECONDS:
            self._reporter.report([self])
        self.check()

    def take_report(self) -> Operation[ProgressReply]:
        """What there is to tell; it counts as told."""
        progress, preview = self._progress, self._preview
        self._progress, self._preview = None, ""
        self._reported_at = time.monotonic()
        return self._jobs.report_progress(self._job, progress, preview)

    def receive(self, verdict: ProgressReply, sent_at: tuple[float, float]) -> None:
        self._verdict, self._confirmed_at = verdict, sent_at


def _moment() -> tuple[float, float]:
    """By both clocks: one stands still while the machine sleeps, the other may be set."""
    return time.monotonic(), time.time()
