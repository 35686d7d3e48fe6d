"""Jobs as Flower and its like show them: each is a Celery task under its own id."""

import logging
import threading
import time
from collections import deque

from celery import Celery

from shared.jobs.job import Job
from shared.jobs.states import State
from shared.redis.wakeups import GENERATE

logger = logging.getLogger(__name__)

#: Sent together, this long after the first: one by one they cost more than many a short job.
DELAY_SECONDS = 0.5
#: Kept until then, and while the broker is away; the oldest go first.
MOST_KEPT = 2000


class TaskEvents:
    """Sends what happens to jobs from a thread of its own. Nothing depends on whether it arrives."""

    def __init__(self, app: Celery, node: str) -> None:
        self._app = app
        self._node = node
        self._kept: deque[tuple[str, dict[str, object]]] = deque(maxlen=MOST_KEPT)
        self._has_some = threading.Event()
        threading.Thread(target=self._run, name="task-events", daemon=True).start()

    def publish(self, job: Job) -> None:
        now = time.time()
        match job.state:
            case State.QUEUED:
                return
            case State.RUNNING:
                details = {"name": GENERATE, "args": f"({job.id!r},)", "kwargs": "{}", "retries": job.attempt - 1}
                self._keep("task-received", job, now, **details)
                self._keep("task-started", job, now)
            case State.SUCCEEDED:
                self._keep("task-succeeded", job, now, result=job.state.value, runtime=(job.run_ms or 0) / 1000)
            case State.FAILED:
                self._keep("task-failed", job, now, exception=job.error.code if job.error else "", traceback="")
            case State.CANCELLED:
                self._keep("task-revoked", job, now, terminated=True, signum=None, expired=False)
        self._has_some.set()

    def _keep(self, kind: str, job: Job, now: float, **fields: object) -> None:
        self._kept.append((kind, {"uuid": job.id, "timestamp": now, **fields}))

    def _run(self) -> None:
        while True:
            self._has_some.wait()
            time.sleep(DELAY_SECONDS)
            self._has_some.clear()
            try:
                self._send()
            except Exception as error:
                logger.debug("events of %d jobs were not sent: %s", len(self._kept), error)

    def _send(self) -> None:
        with (
            self._app.connection_for_write() as connection,
            self._app.events.Dispatcher(
                connection, hostname=self._node, buffer_while_offline=False, buffer_group=frozenset({"task"})
            ) as dispatcher,
        ):
            dispatcher.buffer_limit = MOST_KEPT * 2
            while self._kept:
                kind, fields = self._kept.popleft()
                dispatcher.send(kind, **fields)
            dispatcher.flush()
