"""When a worker tells of its tasks: Flower and its like hear of many at once, a moment later."""

from typing import Any

from celery import bootsteps

#: Celery's own way, at each event, was two fifths of what a parent does that hands out many short jobs.
DELAY_SECONDS = 0.5
#: Kept until then; with more, they are told at once.
MOST_KEPT = 1000


class EventsTogether(bootsteps.StartStopStep):
    """Sends what happened to tasks at most twice a second."""

    requires = ("celery.worker.consumer.events:Events",)

    def start(self, consumer: Any) -> None:
        self._is_due = False
        dispatcher = consumer.event_dispatcher
        dispatcher.buffer_limit = MOST_KEPT
        dispatcher.on_send_buffered = lambda: self._flush_soon(consumer)

    def _flush_soon(self, consumer: Any) -> None:
        if not self._is_due:
            self._is_due = True
            consumer.hub.call_later(DELAY_SECONDS, self._flush, consumer)

    def _flush(self, consumer: Any) -> None:
        self._is_due = False
        if consumer.event_dispatcher:
            consumer.event_dispatcher.flush()

    def stop(self, consumer: Any) -> None:
        self._flush(consumer)
