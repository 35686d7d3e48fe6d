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
from worker.jobs.follower import JobCancelled, JobLost
from worker.records.redis_retry import patiently

logger = logging.getLogger(__name__)

#: Progress goes out at most this often: what tells and forwards it takes its time from a model on the same cores. A
#: silent job still asks this often whether it should stop.
MIN_INTERVAL_SECONDS = 0.25
HEARTBEAT_SECONDS = 1.0
#: A job whose lease was renewed so lately is certainly still its worker's.
SURE_SECONDS = LEASE_MS / 1000 / 4


class RedisLedger:
    def __init__(
        self, store: Store, jobs: Jobs, backend: Backend, on_moved: Callable[[Job], None] = lambda _: None
    ) -> None:
        """`on_moved` hears of each job that this worker moved, on the thread that did."""
        self._store = store
        self._jobs = jobs
        self._backend = backend
        self._on_moved = on_moved
        self._reporter = Reporter(store)

    def tell(self, news: Operation[Any]) -> None:
        """Record something that is not about a job."""
        patiently(lambda: self._store.run(news))

    def read(self, job_id: str) -> Job | None:
        snapshot = patiently(lambda: self._store.run(self._jobs.read(job_id)))
        return snapshot.job if snapshot else None

    def peek(self, most: int) -> Sequence[QueuedJob]:
        return patiently(lambda: self._store.run(self._jobs.peek_queue(self._backend, most)))

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        moved = patiently(lambda: self._store.run_all([self._jobs.move(old, new) for old, new in moves]))
        # The answer to an attempt that did succeed may have been lost with the connection.
        ours = [done or self._is(new) for done, (_, new) in zip(moved, moves, strict=True)]
        for is_ours, (_, new) in zip(ours, moves, strict=True):
            if is_ours:
                self._on_moved(new)
        return ours

    def _is(self, job: Job) -> bool:
        held = self.read(job.id)
        return held is not None and held.model_copy(update={"providers": job.providers}) == job

    def note(self, job: Job) -> bool:
        return patiently(lambda: self._store.run(self._jobs.save_provider_tasks(job)))

    @contextmanager
    def open_line(self, job: Job) -> Iterator["RedisProgressChannel"]:
        line = RedisProgressChannel(self._jobs, job, self._reporter)
        with self._reporter.serving(line):
            yield line


class Reporter:
    """One thread that speaks for all open lines, so that rendering never waits for Redis."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._lines: list[RedisProgressChannel] = []
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None

    @contextmanager
    def serving(self, line: "RedisProgressChannel") -> Iterator[None]:
        with self._changed:
            self._lines.append(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="reporter", daemon=True)
                self._thread.start()
        self.wake(line)
        try:
            yield
        finally:
            # A report that is under way is not waited for: one that comes too late is refused by its record.
            with self._changed:
                self._lines.remove(line)

    def wake(self, line: "RedisProgressChannel") -> None:
        """If it would sleep for longer than the line may wait: each time that it wakes, the model waits."""
        with self._changed:
            if line.due < self._wakes_at:
                self._changed.notify()

    def report(self, lines: Sequence["RedisProgressChannel"]) -> None:
        """Tell what there is to tell, and hear what is wanted. What cannot be told now is told with the next step."""
        moment = _moment()
        reports = [line.report() for line in lines]
        with suppress(StoreUnavailable):
            for line, verdict in zip(lines, self._store.run_all(reports), strict=True):
                line.heard(verdict, moment)

    def _serve(self) -> None:
        while True:
            lines = self._next()
            try:
                self.report(lines)
            except Exception:
                # Leases are renewed here: whatever goes wrong once, the next round has to come.
                logger.exception("a report of running jobs failed")

    def _next(self) -> list["RedisProgressChannel"]:
        """The lines that have to report now, as soon as there is one."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [line for line in self._lines if line.due <= now]
                if due:
                    return due
                self._wakes_at = min((line.due for line in self._lines), default=math.inf)
                self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


class RedisProgressChannel:
    """Only the latest progress counts: what is replaced before it could be told is never told."""

    def __init__(self, jobs: Jobs, job: Job, reporter: Reporter) -> None:
        self._jobs = jobs
        self._job = job
        self._reporter = reporter
        self._progress: Progress | None = None
        self._preview = ""
        self._verdict = ProgressReply.CONTINUE
        self._told_at = time.monotonic()
        self._sure_at = _moment()

    @property
    def due(self) -> float:
        """When to report next, by time.monotonic."""
        return self._told_at + (MIN_INTERVAL_SECONDS if self._progress or self._preview else HEARTBEAT_SECONDS)

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._reporter.wake(self)

    def preview(self, preview_json: str) -> None:
        self._preview = preview_json
        self._reporter.wake(self)

    def check(self) -> None:
        match self._verdict:
            case ProgressReply.CANCEL:
                raise JobCancelled
            case ProgressReply.LOST:
                raise JobLost
            case ProgressReply.CONTINUE:
                return

    def confirm(self) -> None:
        if max(now - before for now, before in zip(_moment(), self._sure_at, strict=True)) > SURE_SECONDS:
            self._reporter.report([self])
        self.check()

    def report(self) -> Operation[ProgressReply]:
        """What there is to tell; it counts as told."""
        progress, preview = self._progress, self._preview
        self._progress, self._preview = None, ""
        self._told_at = time.monotonic()
        return self._jobs.report_progress(self._job, progress, preview)

    def heard(self, verdict: ProgressReply, asked_at: tuple[float, float]) -> None:
        self._verdict, self._sure_at = verdict, asked_at


def _moment() -> tuple[float, float]:
    """By both clocks: one stands still while the machine sleeps, the other may be set."""
    return time.monotonic(), time.time()
