"""What a worker does about wake-ups when it loses Redis, and when it is connected again."""

import logging
import time
from contextlib import suppress
from typing import Any
from warnings import catch_warnings

from celery import Celery, bootsteps
from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer
from redis.exceptions import ResponseError

from shared.errors import StoreUnavailable
from shared.jobs.operations import Jobs
from shared.redis.store import Store, connect, may_pass
from shared.settings.worker import WorkerSettings

logger = logging.getLogger(__name__)

#: Pause after an error that the next attempt will probably meet, too.
REFUSED_SECONDS = 5.0


class WakeUpConsumer(Consumer):
    task_consumer: Any
    """kombu's; None until the connection is up."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Do not put the wake-ups in work back: without a connection, kombu would dump them into files."""
        if self.task_consumer is not None:
            self.task_consumer.channel.do_restore = False
        # About another default in future versions; this worker sets its own.
        with catch_warnings(action="ignore", category=CPendingDeprecationWarning):
            super().on_connection_error_after_connected(exc)
        if isinstance(exc, ResponseError) and not may_pass(exc):
            # Celery would try again at once, and names only the class of the error.
            logger.warning("Redis refuses what a worker needs: %s; `imagegen doctor` knows more", exc)
            time.sleep(REFUSED_SECONDS)


def replace_lost_wake_ups(app: Celery, settings: WorkerSettings) -> None:
    """Whenever the worker is connected: what Redis sent over a lost connection is gone."""
    store, jobs = Store(connect(settings.redis_url)), Jobs(settings.redis_prefix)

    class WakeUps(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer:Tasks",)

        def start(self, _: Any) -> None:
            with suppress(StoreUnavailable):
                store.run(jobs.repair_queue(settings.backend))

    app.conf.worker_consumer = "worker.process.wakeup_consumer:WakeUpConsumer"
    app.steps["consumer"].add(WakeUps)
