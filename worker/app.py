"""Celery's side of a worker: one queue, one child that renders, and recovery of its jobs when the child is lost."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, NoReturn

from celery import Celery, bootsteps
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)
from celery.worker import state as celery_state

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.observability import logs, tracing
from shared.redis.celery_queues import create_celery, queue_for
from shared.redis.wakeups import GENERATE, queue_name
from shared.settings.worker import WorkerSettings
from worker.cloud import configure_cloud_worker
from worker.process import grace_period, start_failures
from worker.process.liveness_file import add_liveness_file
from worker.process.task_events import TaskEvents
from worker.process.wakeup_consumer import replace_lost_wake_ups
from worker.records.recovery import JobRecovery, WorkerIdentity

if TYPE_CHECKING:
    from worker.child import Child

logger = logging.getLogger(__name__)

#: A child may take this long to load its model, download included; Celery's own 4 s would kill it in a loop.
LOAD_SECONDS = 6 * 3600
#: How often the parent looks for a child that has ended. Celery notices at once, but too early to join the process,
#: and then looks again only after 5 s.
CHILD_CHECK_SECONDS = 0.5
#: Signal from a child to its parent: do not start another child.
GIVE_UP = signal.SIGUSR2
EXIT_FAILURE = 1


def create_worker(settings: WorkerSettings, start_id: str, start_tracing: tracing.StartTracing) -> Celery:
    """Create a worker for the queue of `settings.backend`."""
    app = create_celery(settings)
    app.conf.update(
        task_queues=[queue_for(settings.backend)],
        task_default_queue=queue_name(settings.backend),
        worker_hijack_root_logger=False,
    )
    # Keeps Celery from configuring logging its own way.
    setup_logging.connect(lambda **_: None, weak=False)
    configure = configure_cloud_worker if settings.backend is Backend.FLUX_API else configure_local_worker
    configure(app, settings, start_id, start_tracing)
    replace_lost_wake_ups(app, settings)
    add_liveness_file(app, settings.alive_file)
    return app


def configure_local_worker(
    app: Celery, settings: WorkerSettings, start_id: str, start_tracing: tracing.StartTracing
) -> None:
    """Use Celery's prefork pool with one child.

    The parent never imports the engine, so it stays small and answers while the child renders; a child that
    crashes or hangs costs only itself.
    """
    app.conf.update(
        # A spawned child is a new interpreter; it finds the task here.
        include=["worker.main"],
        # For a child that is suspended: one that hangs ends itself. Each job of a batch may have to be rendered alone.
        task_time_limit=(settings.max_batch_size + 1) * 2 * settings.job_timeout_seconds,
        worker_pool="prefork",
        # A fork starts half a second sooner and shares what is imported here. It is safe: this process knows no model
        # library, so there is no CUDA context and no thread of OpenMP. Apple's frameworks allow no fork.
        worker_pool_start_method="fork" if sys.platform == "linux" else "spawn",
        worker_concurrency=1,
        worker_proc_alive_timeout=LOAD_SECONDS,
        # A lost child may have sent a result that is still to arrive, but wake-ups have none. Celery's 10 s would keep
        # the next child waiting.
        worker_lost_wait=0.1,
    )
    app.steps["worker"].add(ModelGate)
    logging.getLogger("celery.worker.request").addFilter(_without_traceback)
    _serve_child(app, settings, start_id, start_tracing)
    _recover_jobs(app, settings, start_id)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Celery logs a lost child, also one that was stopped, with forty lines of its own code."""
    record.exc_info = None
    return True


def _serve_child(app: Celery, settings: WorkerSettings, start_id: str, start_tracing: tracing.StartTracing) -> None:
    """Load the engine in each child, run jobs, and end in order."""
    children: list[Child] = []

    def begin(sender: str, **_: object) -> None:
        logs.configure_logging(settings.log_format, backend=settings.backend, worker=sender)
        try:
            # Imported here, because only the child may carry the weight of what it imports.
            from worker.child import Child

            events = TaskEvents(app, sender)
            children.append(Child.load(settings, WorkerIdentity(sender, start_id), start_tracing, events.publish))
        except ConfigurationError as error:
            _give_up(settings, error.detail)
        except Exception as error:
            logger.exception("unexpected error while loading the engine")
            _give_up(settings, f"The {settings.backend} backend could not be loaded: {error}")

    def end(exitcode: int, **_: object) -> None:
        for child in children:
            child.end()
        # What the pool does next, but for its sleep of a second, in which nothing happens.
        os._exit(exitcode)

    worker_process_init.connect(begin, weak=False)
    worker_process_shutdown.connect(end, weak=False)

    # TaskEvents sends the events of jobs instead. Older versions sent the id of a job as an argument.
    @app.task(name=GENERATE, send_events=False)
    def generate(*_: object) -> None:
        children[0].run()


def _recover_jobs(app: Celery, settings: WorkerSettings, start_id: str) -> None:
    """Requeue the jobs of a child that was lost, and of one that outlasts the grace period when the worker ends."""
    recoveries: list[JobRecovery] = []
    workers: list[Any] = []

    def on_setup(sender: str, instance: Any, **_: object) -> None:
        logs.configure_logging(settings.log_format, backend=settings.backend, worker=sender)
        recoveries.append(JobRecovery.connect(settings, WorkerIdentity(sender, start_id)))
        workers.append(instance)

    def on_child_lost() -> None:
        recoveries[0].recover_from_lost_child(settings.job_timeout_seconds)

    def on_shutdown(**_: object) -> None:
        # On a thread: Celery's own loop has stopped by then and waits for the child.
        grace_period.begin(settings.shutdown_grace_seconds, requeue_and_kill)

    def requeue_and_kill() -> None:
        recoveries[0].requeue_all()
        for child in list(workers[0].pool._pool._pool):
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        # Celery would report the lost child as an error.
        os._exit(os.EX_OK)

    app.steps["worker"].add(_child_watch(on_child_lost))
    celeryd_after_setup.connect(on_setup, weak=False)
    worker_shutting_down.connect(on_shutdown, weak=False)


def _child_watch(on_child_lost: Callable[[], None]) -> type[bootsteps.StartStopStep]:
    """Create a step that calls `on_child_lost` after a child has ended and before the next one starts."""

    class ChildWatch(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def register_with_event_loop(self, worker: Any, hub: Any) -> None:
            # The pool sets its own callback only after this.
            hub.call_soon(self._watch, worker.pool._pool)
            hub.call_repeatedly(CHILD_CHECK_SECONDS, worker.pool.maintain_pool)

        def _watch(self, pool: Any) -> None:
            # Celery's signal of a failed task comes later, and only for a child that had a task: one that still stores
            # images has none.
            clean_up = pool.on_process_down

            def on_process_down(child: Any) -> None:
                clean_up(child)
                try:
                    on_child_lost()
                except Exception:
                    # This is the pool's own loop; it must go on.
                    logger.exception("the jobs of a lost child could not be requeued; their leases will expire")

            pool.on_process_down = on_process_down

    return ChildWatch


class ModelGate(bootsteps.StartStopStep):
    """Keeps the worker from its queue until the child has its model, and ends the worker if the child gives up."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        # Before the pool starts a child that could send it.
        signal.signal(GIVE_UP, _stop)
        # Imported modules stay: a child whose collector looked through them would have to copy them all.
        gc.collect()
        gc.freeze()

    def start(self, worker: Any) -> None:
        child = worker.pool._pool._pool[0]
        # The child's first message says that it is up; its sentinel that it has ended.
        while not wait([child.outqR_fd, child._popen.sentinel], timeout=1.0):
            celery_state.maybe_shutdown()
        if not child._is_alive():
            raise SystemExit(EXIT_FAILURE)


def _stop(*_: object) -> None:
    # Celery checks it between two turns of its loop, and exits with this code.
    setattr(celery_state, "should_stop", EXIT_FAILURE)  # noqa: B010 - typed as None


def _give_up(settings: WorkerSettings, reason: str) -> NoReturn:
    """End the child and its whole worker, which must not take jobs without a model."""
    logger.critical(reason)
    start_failures.report_and_back_off(settings, reason)
    os.kill(os.getppid(), GIVE_UP)
    # Not sys.exit: billiard would report it as a crash, with a traceback, and Celery swallows it in signal handlers.
    os._exit(os.EX_CONFIG)
