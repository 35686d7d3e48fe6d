"""What happens to wake-ups in work when a worker's connection to Redis ends: nothing."""

from typing import Any

from celery import Celery, bootsteps


def forget_receipts(app: Celery) -> None:
    """Keep kombu from writing the wake-ups of a closed connection back; where Redis is away, it dumps them into files.

    The queue holds the jobs, and whoever requeues a job adds a wake-up.
    """

    class NoRestore(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer:Tasks",)

        def start(self, consumer: Any) -> None:
            consumer.task_consumer.channel.do_restore = False

    app.steps["consumer"].add(NoRestore)
