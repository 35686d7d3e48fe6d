"""Jobs whose time ran out: those of silent workers go back in line, those past their deadline fail."""

import logging
from collections.abc import Callable
from datetime import datetime

from shared.store import Store
from shared.upkeep import Upkeep
from worker.rescue import Rescue

logger = logging.getLogger(__name__)

BATCH = 100


class Reaper:
    """A lease is renewed every second by the worker that runs the job; after LEASE_MS of silence it lapses."""

    def __init__(self, store: Store, upkeep: Upkeep, rescue: Rescue, now: Callable[[], datetime]) -> None:
        self._store = store
        self._upkeep = upkeep
        self._rescue = rescue
        self._now = now

    def reap(self) -> int:
        """Look after every job whose time has run out; how many there were. Raises StoreUnavailable."""
        lapsed = self._store.run(self._upkeep.lapsed(BATCH))
        for job_id in lapsed:
            logger.warning("the worker of job %s fell silent", job_id, extra={"job_id": job_id})
            self._rescue.worker_lost(job_id, self._now())
        overdue = self._store.run(self._upkeep.overdue(BATCH))
        for job_id in overdue:
            self._rescue.deadline_passed(job_id, self._now())
        return len(lapsed) + len(overdue)
