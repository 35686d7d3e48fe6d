"""Recovering jobs whose worker can no longer run them: requeue or fail."""

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
    """The worker that a process belongs to."""

    node: str
    """Its name in Celery, which another worker may share."""
    start_id: str

    @property
    def id(self) -> str:
        """What jobs record, so that two workers of one name do not take each other's jobs."""
        return f"{self.node}#{self.start_id}"


@dataclass(frozen=True)
class JobRecovery:
    """Never waits for Redis: the housekeeper finds what cannot be recorded now, once the lease has expired."""

    store: Store
    jobs: Jobs
    worker: str = ""
    """Id of the worker whose jobs it may move; '' for any."""

    @classmethod
    def connect(cls, settings: Settings, worker: WorkerIdentity) -> Self:
        return cls(Store(connect(settings.redis_url)), Jobs(settings.redis_prefix), worker.id)

    def fail_overdue(self, job_id: str) -> None:
        """Fail a job that was not started before its deadline."""
        job = self._read(job_id)
        if job is not None and job.state is State.QUEUED:
            self._move(job, job.fail(JobError.from_error(DeadlinePassed()), self.store.now()))

    def requeue_lost(self, job_id: str) -> None:
        """Requeue a job whose worker was lost, unless it has cost too many workers already."""
        job = self._read_running(job_id)
        if job is not None:
            self._requeue_lost(job)

    def requeue(self, job_id: str) -> None:
        """Requeue a job because its worker has to end."""
        job = self._read_running(job_id)
        if job is not None:
            logger.info("job %s is requeued", job_id, extra={"job_id": job_id})
            self._requeue(job, job.requeue())

    def requeue_all(self) -> None:
        """Requeue all jobs of a process that has to end."""
        for job in self._list_running():
            self.requeue(job.id)

    def recover_from_lost_child(self, time_limit_seconds: float) -> None:
        """Requeue the jobs of a process that crashed, or that hung beyond the time limit."""
        jobs = self._list_running()
        last_start = max((job.started_at for job in jobs if job.started_at), default=None)
        batch = [job for job in jobs if job.started_at == last_start]
        for job in jobs:
            # Nobody knows which job of a batch hung: each is tried again, alone.
            if [job] == batch and self._has_run_for(job, time_limit_seconds):
                logger.warning("job %s hung and has cost the process that ran it", job.id, extra={"job_id": job.id})
                self._move(job, job.fail(JobError.from_error(TimedOut()), self.store.now()))
            else:
                self._requeue_lost(job)

    def _requeue_lost(self, job: Job) -> None:
        if job.losses + 1 >= MAX_WORKER_LOSSES:
            self._move(job, job.fail(JobError.from_error(WorkerLost()), self.store.now()))
            return
        logger.warning("the worker of job %s was lost; the job is requeued", job.id, extra={"job_id": job.id})
        self._requeue(job, job.requeue(lost=True))

    def _has_run_for(self, job: Job, seconds: float) -> bool:
        return job.started_at is not None and (self.store.now() - job.started_at).total_seconds() >= seconds

    def _list_running(self) -> Sequence[Job]:
        """Return the jobs that this worker renders, and those whose images it still stores."""
        try:
            return self.store.run(self.jobs.list_running_on(self.worker))
        except StoreUnavailable:
            logger.warning("Redis does not answer: the jobs of this worker wait until their leases expire")
            return ()

    def _read_running(self, job_id: str) -> Job | None:
        job = self._read(job_id)
        if job is None or job.state is not State.RUNNING:
            return None
        return job if self.worker in ("", job.worker) else None

    def _read(self, job_id: str) -> Job | None:
        try:
            snapshot = self.store.run(self.jobs.read(job_id))
        except StoreUnavailable:
            _warn_of_outage(job_id)
            return None
        return snapshot.job if snapshot else None

    def _requeue(self, running: Job, queued: Job) -> None:
        """Or cancel the job if its worker was lost before it saw that the job was cancelled."""
        if self._move(running, queued) is False:
            self._move(running, running.cancel(self.store.now()))

    def _move(self, old: Job, new: Job) -> bool | None:
        """None if Redis does not answer."""
        try:
            return self.store.run(self.jobs.move(old, new))
        except StoreUnavailable:
            _warn_of_outage(old.id)
            return None


def _warn_of_outage(job_id: str) -> None:
    logger.warning("Redis does not answer: job %s waits until its lease expires", job_id, extra={"job_id": job_id})
