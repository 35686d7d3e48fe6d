"""Reaps stranded jobs: requeues those whose lease expired and fails those past their deadline."""

import logging
from dataclasses import dataclass, field

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.operations import Jobs
from shared.jobs.types import Backend
from shared.redis.store import Store
from worker.records.recovery import JobRecovery

logger = logging.getLogger(__name__)

BATCH = 500


@dataclass
class Reaper:
    """The worker that runs a job renews its lease every second; after LEASE_MS without renewal it expires.

    A job counts as lost when two rounds find its lease expired. While the store does not answer, no worker can renew a
    lease, and when a machine sleeps or a clock is set, all leases expire at once: workers get a round's time to renew.
    """

    store: Store
    jobs: Jobs
    housekeeping: JobHousekeeping
    recovery: JobRecovery
    _expired: frozenset[str] = field(default=frozenset(), init=False)
    """What the last round found, if it could look."""

    def reap(self) -> int:
        """Handle lost and overdue jobs and return how many there were. Raise StoreUnavailable."""
        lost = self._lost_jobs()
        for job_id in lost:
            logger.warning("the worker of job %s stopped renewing its lease", job_id, extra={"job_id": job_id})
            self.recovery.requeue_lost(job_id)
        overdue = self.store.run(self.housekeeping.list_overdue(BATCH))
        for job_id in overdue:
            self.recovery.fail_overdue(job_id)
        # A broker may lose a wake-up, and so does a worker that dies with one.
        for backend in Backend:
            self.store.run(self.jobs.repair_queue(backend))
        return len(lost) + len(overdue)

    def _lost_jobs(self) -> list[str]:
        before, self._expired = self._expired, frozenset()
        expired = self.store.run(self.housekeeping.list_expired_leases(BATCH))
        self._expired = frozenset(expired)
        return [job_id for job_id in expired if job_id in before]
