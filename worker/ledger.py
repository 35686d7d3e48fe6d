"""The record of jobs as a worker keeps it, in Redis."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from shared.errors import StoreUnavailable
from shared.jobs import Jobs, Verdict
from shared.schemas import Job, Progress
from shared.store import Operation, Store
from worker.patience import patiently
from worker.runner import JobCancelled, JobLost

#: Progress goes out at most this often, and a silent job still asks this often whether it should stop.
MIN_INTERVAL_SECONDS = 0.05
BEAT_SECONDS = 1.0


class RedisLedger:
    def __init__(self, store: Store, jobs: Jobs) -> None:
        self._store = store
        self._jobs = jobs

    def tell(self, news: Operation[bool]) -> None:
        """Record something that is not about a job."""
        patiently(lambda: self._store.run(news))

    def read(self, job_id: str) -> Job | None:
        snapshot = patiently(lambda: self._store.run(self._jobs.read(job_id)))
        return snapshot.job if snapshot else None

    def move(self, old: Job, new: Job) -> bool:
        if patiently(lambda: self._store.run(self._jobs.move(old, new))):
            return True
        # The answer to an attempt that did succeed may have been lost with the connection.
        held = self.read(old.id)
        return held is not None and held.model_copy(update={"providers": new.providers}) == new

    def note(self, job: Job) -> bool:
        return patiently(lambda: self._store.run(self._jobs.note(job)))

    @contextmanager
    def open_line(self, job: Job) -> Iterator["RedisLine"]:
        line = RedisLine(self._store, self._jobs, job)
        threading.Thread(target=line.serve, name=f"line-{job.id}", daemon=True).start()
        try:
            yield line
        finally:
            # Not joined: a report that comes too late is refused by its record.
            line.close()


class RedisLine:
    """Reports from a thread of its own, so that rendering never waits for Redis; only the latest progress counts."""

    def __init__(self, store: Store, jobs: Jobs, job: Job) -> None:
        self._store = store
        self._jobs = jobs
        self._job = job
        self._news = threading.Condition()
        self._progress: Progress | None = None
        self._preview = ""
        self._closed = False
        self._verdict = Verdict.GO_ON

    def progress(self, progress: Progress) -> None:
        with self._news:
            self._progress = progress
            self._news.notify()

    def preview(self, preview_json: str) -> None:
        with self._news:
            self._preview = preview_json
            self._news.notify()

    def check(self) -> None:
        match self._verdict:
            case Verdict.CANCEL:
                raise JobCancelled
            case Verdict.LOST:
                raise JobLost
            case Verdict.GO_ON:
                return

    def confirm(self) -> None:
        with suppress(StoreUnavailable):
            self._verdict = self._store.run(self._jobs.report(self._job))
        self.check()

    def close(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify()

    def serve(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._progress or self._preview, BEAT_SECONDS)
                if self._closed:
                    return
                progress, preview = self._progress, self._preview
                self._progress, self._preview = None, ""
            # What cannot be told now is told with the next step.
            with suppress(StoreUnavailable):
                self._verdict = self._store.run(self._jobs.report(self._job, progress, preview))
            with self._news:
                self._news.wait_for(lambda: self._closed, MIN_INTERVAL_SECONDS)
