"""Jobs that nobody would do: those of silent workers are requeued, those past their deadline fail."""

import logging

from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.operations import Jobs
from shared.jobs.types import Backend
from shared.redis.store import Store
from worker.records.recovery import JobRecovery

logger = logging.getLogger(__name__)

BATCH = 100


class Reaper:
    """A lease is renewed every second by the worker that runs the job; after LEASE_MS of silence it lapses."""

    def __init__(self, store: Store, jobs: Jobs, upkeep: JobHousekeeping, recovery: JobRecovery) -> None:
        self._store = store
        self._jobs = jobs
        self._upkeep = upkeep
        self._recovery = recovery

    def reap(self) -> int:
        """Look after every job whose time has run out; how many there were. Raises StoreUnavailable."""
        lapsed = self._store.run(self._upkeep.list_expired_leases(BATCH))
        for job_id in lapsed:
            logger.warning("the worker of job %s fell silent", job_id, extra={"job_id": job_id})
            self._recovery.requeue_lost(job_id)
        overdue = self._store.run(self._upkeep.list_overdue(BATCH))
        for job_id in overdue:
            self._recovery.fail_overdue(job_id)
        # A broker may lose a message, and a worker dies with the one that it has taken.
        for backend in Backend:
            self._store.run(self._jobs.fill_wake_ups(backend))
        return len(lapsed) + len(overdue)
