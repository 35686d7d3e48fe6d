"""Celery's consumer, for messages that are wake-ups."""

from typing import Any

from celery.worker.consumer import Consumer


class WakeUpConsumer(Consumer):
    task_consumer: Any
    """kombu's; None until the connection is up."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Do not put the wake-ups in work back: without a connection, kombu would dump them into files.

        The queue holds the jobs, and whoever requeues one adds a wake-up.
        """
        if self.task_consumer is not None:
            self.task_consumer.channel.do_restore = False
        super().on_connection_error_after_connected(exc)
