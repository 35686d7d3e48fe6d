"""Celery's side of a worker without a device: calls to a provider, many at a time, on threads of this process."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps
from celery.exceptions import Reject
from celery.signals import setup_logging, worker_shutdown, worker_shutting_down
from celery.worker import state as celery_state

from shared.errors import ConfigurationError
from shared.observability import logs, tracing
from shared.redis.celery_queues import create_celery, queue_for
from shared.redis.wakeups import GENERATE, queue_name
from shared.settings.worker import WorkerSettings
from worker.process import start_failures
from worker.process.task_events import TaskEvents
from worker.records.recovery import JobRecovery, WorkerIdentity

if TYPE_CHECKING:
    from worker.child import Child

logger = logging.getLogger(__name__)

EXIT_FAILURE = 1
#: How long jobs may take to let go: a post is not left before its answer says what was bought. One that is stuck longer
#: than that is found by its lease.
LET_GO_SECONDS = 30.0


def create_cloud_worker(settings: WorkerSettings, start_id: str, traced: tracing.StartTracing) -> Celery:
    """Threads can be stopped by nobody: the backend keeps the time limit, and leaves when it is told to."""
    app = create_celery(settings)
    app.conf.update(
        task_queues=[queue_for(settings.backend)],
        task_default_queue=queue_name(settings.backend),
        worker_pool="threads",
        worker_concurrency=settings.bfl_concurrency,
        worker_hijack_root_logger=False,
    )
    cloud = _Cloud(app, settings, start_id, traced)
    app.steps["worker"].add(_gate(cloud))
    worker_shutting_down.connect(cloud.on_shutdown, weak=False)
    worker_shutdown.connect(cloud.on_end, weak=False)
    # Celery would do it in its own way otherwise.
    setup_logging.connect(lambda **_: None, weak=False)

    # Jobs are shown in their place, see TaskEvents. Versions before this one sent the id of a job.
    @app.task(name=GENERATE, send_events=False)
    def generate(*_: object) -> None:
        cloud.run()

    return app


class _Cloud:
    """What this process has once it serves: the backend, and who puts back into the queue what it leaves."""

    def __init__(self, app: Celery, settings: WorkerSettings, start_id: str, traced: tracing.StartTracing) -> None:
        self._app = app
        self._start_id = start_id
        self._traced = traced
        self.settings = settings
        self._under_way = 0
        self._changed = threading.Condition()
        self._child: Child | None = None
        self._recovery: JobRecovery | None = None

    def begin(self, name: str) -> None:
        """Raises ConfigurationError."""
        # Only a process that serves carries the weight of what it imports; Flower has this module as well.
        from worker.child import Child

        logs.configure_logging(self.settings.log_format, backend=self.settings.backend, worker=name)
        worker, events = WorkerIdentity(name, self._start_id), TaskEvents(self._app, name)
        self._recovery = JobRecovery.connect(self.settings, worker)
        self._child = Child.load(self.settings, worker, self._traced, events.publish)

    def run(self) -> None:
        if self._child is None or self._recovery is None:
            raise RuntimeError("a job came before the worker was ready")
        if self._child.is_stopping:
            # For another worker.
            raise Reject(requeue=True)
        with self._counted():
            jobs = self._child.run()
            if self._child.is_stopping:
                for job in jobs:
                    # After it has ended, this does nothing.
                    self._recovery.requeue(job.id)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self._under_way += change
            self._changed.notify_all()

    def on_shutdown(self, **_: object) -> None:
        timer = threading.Timer(self.settings.shutdown_grace_seconds, self._leave)
        timer.daemon = True
        timer.start()

    def on_end(self, **_: object) -> None:
        if self._child is not None:
            self._child.end()

    def _leave(self) -> None:
        if self._child is None:
            return
        self._child.stop_jobs()
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, LET_GO_SECONDS)
        self._child.end()
        os._exit(os.EX_OK)


def _gate(cloud: _Cloud) -> type[bootsteps.StartStopStep]:
    """Holds the worker back from its queue until it has its backend; ends the worker if it never will."""

    class CloudGate(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            try:
                cloud.begin(worker.hostname)
            except ConfigurationError as error:
                logger.critical(error.detail)
                start_failures.report_and_back_off(cloud.settings, error.detail, celery_state.maybe_shutdown)
                raise SystemExit(EXIT_FAILURE) from None

    return CloudGate
