"""Sends an event for each job, so that Flower and other Celery monitors show jobs as tasks."""

import logging
import threading
import time
from collections import deque

from celery import Celery

from shared.jobs.job import Job
from shared.jobs.states import State
from shared.redis.wakeups import GENERATE

logger = logging.getLogger(__name__)

#: Events are sent together, this long after the first: one by one they cost more than a short job.
DELAY_SECONDS = 0.5
#: Events kept until then and while the broker is away; the oldest are dropped first.
MAX_PENDING = 2000


class TaskEvents:
    """Sends events from its own thread. Nothing depends on whether they arrive."""

    def __init__(self, app: Celery, node: str) -> None:
        self._app = app
        self._node = node
        self._pending: deque[tuple[str, dict[str, object]]] = deque(maxlen=MAX_PENDING)
        self._has_events = threading.Event()
        threading.Thread(target=self._run, name="task-events", daemon=True).start()

    def publish(self, job: Job) -> None:
        now = time.time()
        match job.state:
            case State.QUEUED:
                return
            case State.RUNNING:
                details = {"name": GENERATE, "args": f"({job.id!r},)", "kwargs": "{}", "retries": job.attempt - 1}
                self._add("task-received", job, now, **details)
                self._add("task-started", job, now)
            case State.SUCCEEDED:
                self._add("task-succeeded", job, now, result=job.state.value, runtime=(job.run_ms or 0) / 1000)
            case State.FAILED:
                self._add("task-failed", job, now, exception=job.error.code if job.error else "", traceback="")
            case State.CANCELLED:
                self._add("task-revoked", job, now, terminated=True, signum=None, expired=False)
        self._has_events.set()

    def _add(self, kind: str, job: Job, now: float, **fields: object) -> None:
        self._pending.append((kind, {"uuid": job.id, "timestamp": now, **fields}))

    def _run(self) -> None:
        while True:
            self._has_events.wait()
            time.sleep(DELAY_SECONDS)
            self._has_events.clear()
            try:
                self._send()
            except Exception as error:
                logger.debug("events of %d jobs were not sent: %s", len(self._pending), error)

    def _send(self) -> None:
        with (
            self._app.connection_for_write() as connection,
            self._app.events.Dispatcher(
                connection, hostname=self._node, buffer_while_offline=False, buffer_group=frozenset({"task"})
            ) as dispatcher,
        ):
            dispatcher.buffer_limit = MAX_PENDING * 2
            while self._pending:
                kind, fields = self._pending.popleft()
                dispatcher.send(kind, **fields)
            dispatcher.flush()
