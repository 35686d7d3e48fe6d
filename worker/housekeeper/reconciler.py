"""Queued jobs whose message was lost get another one."""

import logging
import re

from shared.jobs import Jobs
from shared.queues import JobQueue
from shared.states import State
from shared.store import Store
from shared.upkeep import Upkeep

logger = logging.getLogger(__name__)

_TASK_ID = re.compile(r'"id": "([0-9a-f-]{36})"')


class Reconciler:
    """Taking a message from the broker is two steps in kombu: a worker that dies between them loses it.

    A message that a worker has just taken, for a job that it has not yet started, is missing too, for milliseconds:
    so only what is missing in two looks in a row is sent again. A second message does no harm: only one start wins.
    """

    def __init__(self, store: Store, jobs: Jobs, upkeep: Upkeep, queue: JobQueue) -> None:
        self._store = store
        self._jobs = jobs
        self._upkeep = upkeep
        self._queue = queue
        self._missing: frozenset[str] = frozenset()

    def reconcile(self) -> int:
        """Send lost messages again; how many. Raises StoreUnavailable."""
        queued, messages = self._store.run(self._upkeep.waiting())
        known = {found.group(1) for message in messages if (found := _TASK_ID.search(message))}
        missing = frozenset(queued) - known
        sent = sum(self._send_again(job_id) for job_id in missing & self._missing)
        self._missing = missing
        return sent

    def _send_again(self, job_id: str) -> bool:
        snapshot = self._store.run(self._jobs.read(job_id))
        if snapshot is None or snapshot.job.state is not State.QUEUED:
            return False
        job = snapshot.job
        logger.warning("the message of job %s was lost; sending it again", job_id, extra={"job_id": job_id})
        message = self._queue.message(job.id, job.backend, job.request.priority)
        return self._store.run(self._upkeep.repost(job, message))
