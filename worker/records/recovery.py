"""What becomes of a job whose worker can no longer run it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from shared.errors import DeadlinePassed, StoreUnavailable, TimedOut, WorkerLost
from shared.jobs.job import MAX_WORKER_LOSSES, Job, JobError
from shared.jobs.operations import Jobs
from shared.jobs.states import State
from shared.redis.store import Store, connect
from shared.settings.service import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerIdentity:
    """Whom a process works for."""

    node: str
    """Its name in Celery, which another worker may have too."""
    start_id: str

    @property
    def id(self) -> str:
        """What jobs record, so that two workers of one name do not take each other's."""
        return f"{self.node}#{self.start_id}"


class JobRecovery:
    """Never waits for Redis: what cannot be recorded now is found by the housekeeper, when the lease has lapsed."""

    def __init__(self, store: Store, jobs: Jobs, worker: str = "") -> None:
        """`worker` is the id of the one whose jobs it may move; '' for those of any."""
        self._worker = worker
        self._store = store
        self._jobs = jobs

    @classmethod
    def connect(cls, settings: Settings, worker: WorkerIdentity) -> Self:
        return cls(Store(connect(settings.redis_url)), Jobs(settings.redis_prefix), worker.id)

    def fail_overdue(self, job_id: str) -> None:
        """For a job that nobody has started."""
        job = self._found(job_id)
        if job is not None and job.state is State.QUEUED:
            self._move(job, job.fail(JobError.from_error(DeadlinePassed()), self._store.now()))

    def requeue_lost(self, job_id: str) -> None:
        """Back into the queue, unless the job has cost too many workers already."""
        job = self._running(job_id)
        if job is not None:
            self._lost(job)

    def _lost(self, job: Job) -> None:
        if job.losses + 1 >= MAX_WORKER_LOSSES:
            self._move(job, job.fail(JobError.from_error(WorkerLost()), self._store.now()))
            return
        logger.warning("the worker of job %s was lost; it goes back into the queue", job.id, extra={"job_id": job.id})
        self._move(job, job.requeue(lost=True))

    def requeue(self, job_id: str) -> None:
        """Back into the queue, because the worker has to end."""
        job = self._running(job_id)
        if job is not None:
            logger.info("job %s goes back into the queue", job_id, extra={"job_id": job_id})
            self._move(job, job.requeue())

    def recover_from_lost_child(self, time_limit_seconds: float) -> None:
        """The process that rendered is gone: by a crash, or because it hung beyond the time limit."""
        jobs = self._all_running()
        last_start = max((job.started_at for job in jobs if job.started_at), default=None)
        rendering = [job for job in jobs if job.started_at == last_start]
        for job in jobs:
            # Of several that were rendered together, nobody knows which one hung: each is tried again, alone.
            if [job] == rendering and self._has_run_for(job, time_limit_seconds):
                logger.warning("job %s hung and has cost the process that ran it", job.id, extra={"job_id": job.id})
                self._move(job, job.fail(JobError.from_error(TimedOut()), self._store.now()))
            else:
                self._lost(job)

    def requeue_all(self) -> None:
        """The process that renders has to end, whatever it still has."""
        for job in self._all_running():
            self.requeue(job.id)

    def _has_run_for(self, job: Job, seconds: float) -> bool:
        return job.started_at is not None and (self._store.now() - job.started_at).total_seconds() >= seconds

    def _all_running(self) -> Sequence[Job]:
        """One that is rendered, perhaps with others, and those that are still being written."""
        try:
            return self._store.run(self._jobs.list_running_on(self._worker))
        except StoreUnavailable:
            logger.warning("Redis does not answer: the jobs of this worker are left to their leases")
            return ()

    def _running(self, job_id: str) -> Job | None:
        job = self._found(job_id)
        if job is None or job.state is not State.RUNNING:
            return None
        return job if self._worker in ("", job.worker) else None

    def _found(self, job_id: str) -> Job | None:
        try:
            snapshot = self._store.run(self._jobs.read(job_id))
        except StoreUnavailable:
            logger.warning("Redis does not answer: job %s is left to its lease", job_id, extra={"job_id": job_id})
            return None
        return snapshot.job if snapshot else None

    def _move(self, old: Job, new: Job) -> None:
        try:
            self._store.run(self._jobs.move(old, new))
        except StoreUnavailable:
            logger.warning("Redis does not answer: job %s is left to its lease", old.id, extra={"job_id": old.id})
