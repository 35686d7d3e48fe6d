"""What becomes of a job whose worker can no longer run it."""

import logging
from collections.abc import Set
from datetime import datetime
from typing import Self

from shared.errors import DeadlinePassed, StoreUnavailable, TimedOut, WorkerLost
from shared.jobs import JobFilter, Jobs
from shared.queues import JobQueue
from shared.schemas import MOST_LOSSES, Job, JobError
from shared.settings import Settings
from shared.states import State
from shared.store import Store, connect

logger = logging.getLogger(__name__)

#: Running jobs, of all workers, among which those of one are looked for. What is not found has its lease.
MOST_OTHERS = 500


class Rescue:
    """Never waits for Redis: what cannot be recorded now is found by the housekeeper, when the lease has lapsed."""

    def __init__(self, store: Store, jobs: Jobs, queue: JobQueue, worker: str | None = None) -> None:
        """`worker` limits it to the jobs that this worker runs: those of another are not its to move."""
        self._worker = worker
        self._store = store
        self._jobs = jobs
        self._queue = queue

    @classmethod
    def connected(cls, settings: Settings, queue: JobQueue, worker: str) -> Self:
        return cls(Store(connect(settings.redis_url)), Jobs(settings.redis_prefix), queue, worker)

    def timed_out(self, job_id: str, now: datetime) -> None:
        job = self._running(job_id)
        if job is not None:
            self._move(job, job.fail(JobError.of(TimedOut()), now))

    def deadline_passed(self, job_id: str, now: datetime) -> None:
        """For a job that nobody has started."""
        job = self._found(job_id)
        if job is not None and job.state is State.QUEUED:
            self._move(job, job.fail(JobError.of(DeadlinePassed()), now))

    def worker_lost(self, job_id: str, now: datetime) -> None:
        """Back in line, unless the job has cost too many workers already."""
        job = self._running(job_id)
        if job is None:
            return
        if job.losses + 1 >= MOST_LOSSES:
            self._move(job, job.fail(JobError.of(WorkerLost()), now))
            return
        logger.warning("the worker of job %s was lost; the job goes back in line", job_id, extra={"job_id": job_id})
        self._move(job, job.requeue(lost=True), back_in_line=True)

    def handed_back(self, job_id: str) -> None:
        """Back in line, because the worker has to end."""
        job = self._running(job_id)
        if job is not None:
            logger.info("job %s goes back in line", job_id, extra={"job_id": job_id})
            self._move(job, job.requeue(), back_in_line=True)

    def child_lost(self, job_id: str, now: datetime, *, timed_out: bool) -> None:
        """The process that was handed this job is gone, and with it whatever else it had."""
        if timed_out:
            self.timed_out(job_id, now)
        else:
            self.worker_lost(job_id, now)
        for other in self._others():
            self.worker_lost(other, now)

    def worker_leaves(self, job_ids: Set[str]) -> None:
        """The process that was handed these jobs has to end, whatever else it still has."""
        for each in {*job_ids, *self._others()}:
            self.handed_back(each)

    def _others(self) -> list[str]:
        """Ids of all jobs that this worker has on record as running: the one that its child was handed may have been
        rendered together with others, or while the one before it was still being written."""
        try:
            page = self._store.run(self._jobs.page(JobFilter(state=State.RUNNING), MOST_OTHERS, None))
        except StoreUnavailable:
            logger.warning("Redis does not answer: the jobs of this worker are left to their leases")
            return []
        return [snapshot.job.id for snapshot in page.jobs if snapshot.job.worker == self._worker]

    def _running(self, job_id: str) -> Job | None:
        job = self._found(job_id)
        if job is None or job.state is not State.RUNNING:
            return None
        return job if self._worker in (None, job.worker) else None

    def _found(self, job_id: str) -> Job | None:
        try:
            snapshot = self._store.run(self._jobs.read(job_id))
        except StoreUnavailable:
            logger.warning("Redis does not answer: job %s is left to its lease", job_id, extra={"job_id": job_id})
            return None
        return snapshot.job if snapshot else None

    def _move(self, old: Job, new: Job, *, back_in_line: bool = False) -> None:
        message = self._queue.message(old.id, old.backend, old.request.priority) if back_in_line else None
        try:
            self._store.run(self._jobs.move(old, new, message))
        except StoreUnavailable:
            logger.warning("Redis does not answer: job %s is left to its lease", old.id, extra={"job_id": old.id})
