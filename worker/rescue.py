"""What becomes of a job whose child process was killed: by the time limit, by a crash, for want of memory."""

import logging
from datetime import datetime
from typing import Self

from shared.errors import StoreUnavailable, TimedOut, WorkerLost
from shared.jobs import Jobs
from shared.queues import JobQueue
from shared.schemas import MOST_ATTEMPTS, Job, JobError
from shared.settings import WorkerSettings
from shared.states import State
from shared.store import Store, connect

logger = logging.getLogger(__name__)


class Rescue:
    """Runs in the worker's parent, between two turns of its event loop: one short call to Redis, no retries."""

    def __init__(self, store: Store, jobs: Jobs, queue: JobQueue) -> None:
        self._store = store
        self._jobs = jobs
        self._queue = queue

    @classmethod
    def connected(cls, settings: WorkerSettings, queue: JobQueue) -> Self:
        return cls(Store(connect(settings.redis_url)), Jobs(settings.redis_prefix), queue)

    def timed_out(self, job_id: str, now: datetime) -> None:
        job = self._running(job_id)
        if job is not None:
            self._store.run(self._jobs.move(job, job.fail(JobError.of(TimedOut()), now)))

    def child_lost(self, job_id: str, now: datetime) -> None:
        """Start the job again, elsewhere or here, unless it has cost a child too often already."""
        job = self._running(job_id)
        if job is None:
            return
        if job.attempt >= MOST_ATTEMPTS:
            self._store.run(self._jobs.move(job, job.fail(JobError.of(WorkerLost()), now)))
            return
        logger.warning("the process that ran job %s died; the job goes back in line", job_id, extra={"job_id": job_id})
        message = self._queue.message(job.id, job.backend, job.request.priority)
        self._store.run(self._jobs.move(job, job.requeue(), message))

    def _running(self, job_id: str) -> Job | None:
        try:
            snapshot = self._store.run(self._jobs.read(job_id))
        except StoreUnavailable:
            logger.exception("the end of job %s could not be recorded", job_id, extra={"job_id": job_id})
            return None
        return snapshot.job if snapshot and snapshot.job.state is State.RUNNING else None
