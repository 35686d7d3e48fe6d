"""Reaps stranded jobs: requeues those whose lease expired and fails those past their deadline."""

import logging
from dataclasses import dataclass

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.operations import Jobs
from shared.jobs.types import Backend
from shared.redis.store import Store
from worker.records.recovery import JobRecovery

logger = logging.getLogger(__name__)

BATCH = 100


@dataclass(frozen=True)
class Reaper:
    """The worker that runs a job renews its lease every second; after LEASE_MS without renewal it expires."""

    store: Store
    jobs: Jobs
    housekeeping: JobHousekeeping
    recovery: JobRecovery

    def reap(self) -> int:
        """Handle expired jobs and return how many there were. Raise StoreUnavailable."""
        expired = self.store.run(self.housekeeping.list_expired_leases(BATCH))
        for job_id in expired:
            logger.warning("the worker of job %s stopped renewing its lease", job_id, extra={"job_id": job_id})
            self.recovery.requeue_lost(job_id)
        overdue = self.store.run(self.housekeeping.list_overdue(BATCH))
        for job_id in overdue:
            self.recovery.fail_overdue(job_id)
        # A broker may lose a wake-up, and so does a worker that dies with one.
        for backend in Backend:
            self.store.run(self.jobs.repair_queue(backend))
        return len(expired) + len(overdue)
