"""Celery's side of a worker without a device: many calls to a provider at a time, on threads of this process."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery, bootsteps
from celery.exceptions import Reject
from celery.signals import worker_shutdown, worker_shutting_down
from celery.worker import state as celery_state

from shared.errors import ConfigurationError
from shared.observability import logs, tracing
from shared.redis.wakeups import GENERATE
from shared.settings.worker import WorkerSettings
from worker.process import grace_period, start_failures
from worker.process.task_events import TaskEvents
from worker.records.recovery import JobRecovery, WorkerIdentity

if TYPE_CHECKING:
    from worker.child import Child

logger = logging.getLogger(__name__)

EXIT_FAILURE = 1
#: How long jobs may take to stop: a request to the provider is not left before its response says what was bought. A job
#: that is stuck for longer is recovered when its lease expires.
STOP_SECONDS = 30.0


def configure_cloud_worker(
    app: Celery, settings: WorkerSettings, start_id: str, start_tracing: tracing.StartTracing
) -> None:
    """Use threads. They cannot be killed, so the engine keeps the time limit and stops jobs when asked to."""
    app.conf.update(worker_pool="threads", worker_concurrency=settings.bfl_concurrency)
    cloud = _CloudWorker(app, settings, start_id, start_tracing)
    app.steps["worker"].add(_gate(cloud))
    worker_shutting_down.connect(cloud.on_shutdown, weak=False)
    worker_shutdown.connect(cloud.on_end, weak=False)

    # TaskEvents sends the events of jobs instead. Older versions sent the id of a job as an argument.
    @app.task(name=GENERATE, send_events=False)
    def generate(*_: object) -> None:
        cloud.run()


class _CloudWorker:
    """Runs jobs on threads, and requeues those that it stops when it has to end."""

    def __init__(
        self, app: Celery, settings: WorkerSettings, start_id: str, start_tracing: tracing.StartTracing
    ) -> None:
        self._app = app
        self._start_id = start_id
        self._start_tracing = start_tracing
        self.settings = settings
        self._active = 0
        self._changed = threading.Condition()
        self._child: Child | None = None
        self._recovery: JobRecovery | None = None

    def start(self, name: str) -> None:
        """Raise ConfigurationError if the engine cannot be loaded."""
        # Imported late, because Flower imports this module too and must stay light.
        from worker.child import Child

        logs.configure_logging(self.settings.log_format, backend=self.settings.backend, worker=name)
        worker, events = WorkerIdentity(name, self._start_id), TaskEvents(self._app, name)
        self._recovery = JobRecovery.connect(self.settings, worker)
        self._child = Child.load(self.settings, worker, self._start_tracing, events.publish)

    def run(self) -> None:
        if self._child is None or self._recovery is None:
            raise RuntimeError("a job arrived before the worker was ready")
        if self._child.is_stopping:
            # Another worker takes the wake-up.
            raise Reject(requeue=True)
        with self._counted():
            jobs = self._child.run()
            if self._child.is_stopping:
                for job in jobs:
                    # Does nothing for a job that has ended.
                    self._recovery.requeue(job.id)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._active += 1
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def on_shutdown(self, **_: object) -> None:
        grace_period.begin(self.settings.shutdown_grace_seconds, self._stop)

    def on_end(self, **_: object) -> None:
        if self._child is not None:
            self._child.end()

    def _stop(self) -> None:
        if self._child is None:
            return
        self._child.stop_jobs()
        with self._changed:
            self._changed.wait_for(lambda: not self._active, STOP_SECONDS)
        self._child.end()
        os._exit(os.EX_OK)


def _gate(cloud: _CloudWorker) -> type[bootsteps.StartStopStep]:
    """Keep the worker from its queue until its engine is loaded, and end the worker if that fails."""

    class CloudGate(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def start(self, worker: Any) -> None:
            try:
                cloud.start(worker.hostname)
            except ConfigurationError as error:
                logger.critical(error.detail)
                start_failures.report_and_back_off(cloud.settings, error.detail, celery_state.maybe_shutdown)
                raise SystemExit(EXIT_FAILURE) from None

    return CloudGate
