"""The job records that a worker reads and moves, in Redis."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

from shared.errors import StoreUnavailable
from shared.jobs.job import Job, ModelLoad, Progress, QueuedJob
from shared.jobs.operations import LEASE_MS, Jobs, ModelAffinity, ProgressReply
from shared.jobs.types import Backend
from shared.redis.store import Operation, Store
from worker.jobs.job_store import JobCancelled, JobLost
from worker.records.redis_retry import errors_logged, retry_until_available

T = TypeVar("T")

#: Progress is sent at most this often: sending and forwarding it takes CPU time from a model on the same cores.
MIN_INTERVAL_SECONDS = 0.25
#: How often a silent job renews its lease and asks whether it is cancelled.
RENEW_SECONDS = 1.0
#: A job whose lease was renewed this recently certainly still belongs to its worker.
CONFIRMED_SECONDS = LEASE_MS / 1000 / 4


#: Between two reports of the progress of a load.
LOAD_INTERVAL_SECONDS = 0.5
#: How long a worker waits that leaves the jobs in the queue to others.
LEAVE_SECONDS = 0.5
#: Jobs in the order of the queue.
NO_AFFINITY = ModelAffinity(worker="", loaded=(), default_model="", bound_ms=0)


class RedisJobStore:
    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        backend: Backend,
        on_moved: Callable[[Job], None] = lambda _: None,
        affinity: ModelAffinity = NO_AFFINITY,
        is_elsewhere: Callable[[str], Operation[bool]] | None = None,
    ) -> None:
        """`on_moved` is called with each job that this worker moved, on the thread that moved it.

        `is_elsewhere` asks for models of other machines; None if there is no catalogue.
        """
        self._store = store
        self._jobs = jobs
        self._backend = backend
        self._on_moved = on_moved
        self._affinity = affinity
        self._is_elsewhere = is_elsewhere
        self._load_reported_at = -math.inf
        self._reporter = ProgressReporter(store)

    def run(self, operation: Operation[T]) -> T:
        """Run an operation, retried until Redis answers."""
        return retry_until_available(lambda: self._store.run(operation))

    def read(self, job_id: str) -> Job | None:
        snapshot = self.run(self._jobs.read(job_id))
        return snapshot.job if snapshot else None

    def peek(self, limit: int, loaded: Set[str] | None, tried: Set[str]) -> Sequence[QueuedJob]:
        if loaded is None:
            return self.run(self._jobs.peek_queue(self._backend, limit))
        affinity = replace(self._affinity, loaded=loaded)
        head = self.run(self._jobs.next_in_queue(self._backend, limit, affinity, tried))
        if head.is_left_to_others:
            self._leave_to_others()
        return head.jobs

    def is_elsewhere(self, model: str) -> bool:
        return self._is_elsewhere is not None and self.run(self._is_elsewhere(model))

    def _leave_to_others(self) -> None:
        """Return the wake-up that led here, and come back later in case the others are lost or too slow."""
        self.run(self._jobs.repair_queue(self._backend))
        time.sleep(LEAVE_SECONDS)

    def report_load(self, jobs: Sequence[Job], model: str, bytes_done: int, bytes_total: int) -> None:
        now = time.monotonic()
        if now < self._load_reported_at + LOAD_INTERVAL_SECONDS and bytes_done < bytes_total:
            return
        self._load_reported_at = now
        load = ModelLoad(model=model, bytes_done=bytes_done, bytes_total=bytes_total)
        with suppress(StoreUnavailable):
            self._store.run_all([self._jobs.report_load(job, load) for job in jobs])

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        replies = retry_until_available(lambda: self._store.run_all([self._jobs.move(old, new) for old, new in moves]))
        # The reply to an attempt that succeeded may have been lost with the connection.
        moved = [done or self._is_recorded(new) for done, (_, new) in zip(replies, moves, strict=True)]
        for is_moved, (_, new) in zip(moved, moves, strict=True):
            if is_moved:
                self._on_moved(new)
        return moved

    def _is_recorded(self, job: Job) -> bool:
        recorded = self.read(job.id)
        return recorded is not None and recorded.model_copy(update={"providers": job.providers}) == job

    def save_provider_tasks(self, job: Job) -> None:
        _require_continue(self.run(self._jobs.save_provider_tasks(job)))

    @contextmanager
    def open_channel(self, job: Job) -> Iterator["RedisProgressChannel"]:
        channel = RedisProgressChannel(self._jobs, job, self._reporter)
        with self._reporter.attached(channel):
            yield channel


class ProgressReporter:
    """Reports the progress of all open channels from one thread, so that rendering never waits for Redis."""

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
                self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
                self._thread.start()
        self.schedule(channel)
        try:
            yield
        finally:
            # A report under way is not awaited: the job's record refuses one that comes too late.
            with self._changed:
                self._channels.remove(channel)

    def schedule(self, channel: "RedisProgressChannel") -> None:
        """Wake the thread if it would sleep past the channel's next report; every wake-up makes the model wait."""
        with self._changed:
            if channel.due_at < self._wakes_at:
                self._changed.notify()

    def report(self, channels: Sequence["RedisProgressChannel"]) -> None:
        """Send pending progress and receive the replies. What cannot be sent now is replaced by the next step."""
        sent_at = _now()
        with self._changed:
            reports = [channel.take_report() for channel in channels]
        with suppress(StoreUnavailable):
            for channel, reply in zip(channels, self._store.run_all(reports), strict=True):
                channel.receive(reply, sent_at)

    def _run(self) -> None:
        while True:
            channels = self._wait_for_due()
            # Reports renew leases.
            with errors_logged("a progress report"):
                self.report(channels)

    def _wait_for_due(self) -> list["RedisProgressChannel"]:
        """Block until a channel is due, and return all that are."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [channel for channel in self._channels if channel.due_at <= now]
                if due:
                    return due
                self._wakes_at = min((channel.due_at for channel in self._channels), default=math.inf)
                self._changed.wait(None if self._wakes_at == math.inf else self._wakes_at - now)


class RedisProgressChannel:
    """Sends only the latest progress: what is replaced before it was sent is never sent.

    Previews that a request asked for are sent at once, and all of them.
    """

    def __init__(self, jobs: Jobs, job: Job, reporter: ProgressReporter) -> None:
        self._jobs = jobs
        self._job = job
        self._reporter = reporter
        self._progress: Progress | None = None
        self._previews = deque[str]()
        self._is_urgent = False
        self._reply = ProgressReply.CONTINUE
        self._reported_at = time.monotonic()
        self._confirmed_at = _now()

    @property
    def due_at(self) -> float:
        """When to report next, by time.monotonic."""
        if self._is_urgent:
            return self._reported_at
        return self._reported_at + (MIN_INTERVAL_SECONDS if self._progress or self._previews else RENEW_SECONDS)

    def progress(self, progress: Progress) -> None:
        self._progress = progress
        self._reporter.schedule(self)

    def preview(self, preview_json: str, *, at_once: bool = False) -> None:
        if not at_once:
            self._previews.clear()
        self._previews.append(preview_json)
        self._is_urgent = at_once
        self._reporter.schedule(self)

    def check(self) -> None:
        _require_continue(self._reply)

    def confirm(self) -> None:
        if max(now - before for now, before in zip(_now(), self._confirmed_at, strict=True)) > CONFIRMED_SECONDS:
            self._reporter.report([self])
        self.check()

    def take_report(self) -> Operation[ProgressReply]:
        """Return the report of pending progress, which then counts as sent."""
        progress, preview = self._progress, self._previews.popleft() if self._previews else ""
        self._progress, self._is_urgent = None, self._is_urgent and bool(self._previews)
        self._reported_at = time.monotonic()
        return self._jobs.report_progress(self._job, progress, preview)

    def receive(self, reply: ProgressReply, sent_at: tuple[float, float]) -> None:
        self._reply, self._confirmed_at = reply, sent_at


def _require_continue(reply: ProgressReply) -> None:
    """Raise JobCancelled or JobLost for any other reply."""
    match reply:
        case ProgressReply.CANCEL:
            raise JobCancelled
        case ProgressReply.LOST:
            raise JobLost
        case ProgressReply.CONTINUE:
            return


def _now() -> tuple[float, float]:
    """By both clocks: the monotonic one stops while the machine sleeps, the other one may be set."""
    return time.monotonic(), time.time()
