"""Celery's side of a worker: one queue, one child that renders, and what the parent does when the child is lost."""

import gc
import logging
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, NoReturn

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Celery, bootsteps
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    task_failure,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)
from celery.worker import state as celery_state

from shared.errors import ConfigurationError
from shared.jobs.requests import Backend
from shared.observability import logs, tracing
from shared.redis.celery_queues import create_celery, queue_for
from shared.redis.wakeups import GENERATE, queue_name
from shared.settings.worker import WorkerSettings
from worker.cloud import create_cloud_worker
from worker.process import start_failures
from worker.process.liveness_file import add_liveness_file
from worker.process.task_events import TaskEvents
from worker.records.recovery import JobRecovery, WorkerIdentity

if TYPE_CHECKING:
    from worker.child import Child

logger = logging.getLogger(__name__)

#: A child may take this long to load its model, download included; Celery's own 4 s would kill it in a loop.
LOAD_SECONDS = 6 * 3600
#: How often the parent looks for a child that has ended. Celery hears of it at once, but asks too early whether it
#: can be buried, and then asks again only after 5 s.
BURIAL_SECONDS = 0.5
#: How a child tells its parent that there is no use in starting another one.
GIVE_UP = signal.SIGUSR2
EXIT_FAILURE = 1


def create_worker(settings: WorkerSettings, start_id: str, traced: tracing.Start) -> Celery:
    """The worker that `settings.backend` needs."""
    create = create_cloud_worker if settings.backend is Backend.FLUX_API else create_local_worker
    app = create(settings, start_id, traced)
    add_liveness_file(app, settings.alive_file)
    return app


def create_local_worker(settings: WorkerSettings, start_id: str, traced: tracing.Start) -> Celery:
    """A worker for the one queue of `settings.backend`: Celery's prefork pool, one child.

    The parent never imports the backend, so it stays small and answers while the child renders; a child that
    crashes or hangs costs only itself.
    """
    app = create_celery(settings)
    app.conf.update(
        # How a spawned child, which is a new interpreter, finds the task.
        include=["worker.main"],
        task_queues=[queue_for(settings.backend)],
        task_default_queue=queue_name(settings.backend),
        # For a child that is stopped. One that hangs ends itself, and each job of a batch may come to be done alone.
        task_time_limit=(settings.max_batch_size + 1) * 2 * settings.job_timeout_seconds,
        worker_pool="prefork",
        # A fork starts half a second sooner and shares what is imported here. It is safe: this process knows no model
        # library, so there is no CUDA context and no thread of OpenMP. Apple's frameworks allow no fork.
        worker_pool_start_method="fork" if sys.platform == "linux" else "spawn",
        worker_concurrency=1,
        worker_proc_alive_timeout=LOAD_SECONDS,
        worker_hijack_root_logger=False,
    )
    app.steps["worker"].add(ModelGate)
    _serve_child(app, settings, start_id, traced)
    _recover_jobs(settings, start_id)
    # Celery would do it in its own way otherwise.
    setup_logging.connect(lambda **_: None, weak=False)
    return app


def _serve_child(app: Celery, settings: WorkerSettings, start_id: str, traced: tracing.Start) -> None:
    """What happens in the child: load, run jobs, end."""
    children: list[Child] = []

    def begin(sender: str, **_: object) -> None:
        logs.configure(settings.log_format, backend=settings.backend, worker=sender)
        try:
            # Imported here, because only the child may carry the weight of what it imports.
            from worker.child import Child

            events = TaskEvents(app, sender)
            children.append(Child.loaded(settings, WorkerIdentity(sender, start_id), traced, events.publish))
        except ConfigurationError as error:
            _give_up(settings, error.detail)
        except Exception as error:
            logger.exception("unexpected error while loading")
            _give_up(settings, f"The {settings.backend} backend could not be loaded: {error}")

    def end(**_: object) -> None:
        for child in children:
            child.end()

    worker_process_init.connect(begin, weak=False)
    worker_process_shutdown.connect(end, weak=False)

    # Jobs are shown in their place, see TaskEvents. Versions before this one sent the id of a job.
    @app.task(name=GENERATE, send_events=False)
    def generate(*_: object) -> None:
        children[0].run()


def _recover_jobs(settings: WorkerSettings, start_id: str) -> None:
    """What the parent does for the jobs of a child that was killed, or that must not keep the worker from ending."""

    recoveries: list[JobRecovery] = []
    workers: list[Any] = []

    def on_setup(sender: str, instance: Any, **_: object) -> None:
        logs.configure(settings.log_format, backend=settings.backend, worker=sender)
        recoveries.append(JobRecovery.connect(settings, WorkerIdentity(sender, start_id)))
        workers.append(instance)

    def on_failure(exception: BaseException, **_: object) -> None:
        if isinstance(exception, TimeLimitExceeded | WorkerLostError):
            recoveries[0].recover_from_lost_child(settings.job_timeout_seconds)

    def on_shutdown(**_: object) -> None:
        # On a thread: Celery's own loop has stopped by then, and waits for the child.
        timer = threading.Timer(settings.shutdown_grace_seconds, requeue_and_kill)
        timer.daemon = True
        timer.start()

    def requeue_and_kill() -> None:
        recoveries[0].requeue_all()
        for child in list(workers[0].pool._pool._pool):
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)

    celeryd_after_setup.connect(on_setup, weak=False)
    task_failure.connect(on_failure, weak=False)
    worker_shutting_down.connect(on_shutdown, weak=False)


class ModelGate(bootsteps.StartStopStep):
    """Holds the worker back from its queue until the child has its model; ends the worker if it never will."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        # Before the pool starts a child that could send it.
        signal.signal(GIVE_UP, _stop)
        # What is imported stays: a child that looked through it for garbage would have to copy it all.
        gc.collect()
        gc.freeze()

    def start(self, worker: Any) -> None:
        child = worker.pool._pool._pool[0]
        # The child's first message says that it is up; its sentinel that it has ended.
        while not wait([child.outqR_fd, child._popen.sentinel], timeout=1.0):
            celery_state.maybe_shutdown()
        if not child._is_alive():
            raise SystemExit(EXIT_FAILURE)

    def register_with_event_loop(self, worker: Any, hub: Any) -> None:
        hub.call_repeatedly(BURIAL_SECONDS, worker.pool.maintain_pool)


def _stop(*_: object) -> None:
    # Celery looks at it between two turns of its loop, and exits with this code.
    setattr(celery_state, "should_stop", EXIT_FAILURE)  # noqa: B010 - typed as None


def _give_up(settings: WorkerSettings, sentence: str) -> NoReturn:
    """End the child and its whole worker, which must not take jobs without a model."""
    logger.critical(sentence)
    start_failures.report_and_back_off(settings, sentence)
    os.kill(os.getppid(), GIVE_UP)
    # Not sys.exit: billiard would report it as a crash, with a traceback, and Celery swallows it in signal handlers.
    os._exit(os.EX_CONFIG)
