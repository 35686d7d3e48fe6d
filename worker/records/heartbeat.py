"""A worker's sign of life: its record in Redis, renewed for as long as it lives."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from shared.errors import StoreUnavailable
from shared.redis.store import Store
from shared.workers.devices import DeviceMemory
from shared.workers.records import HEARTBEAT_SECONDS, WorkerRecord, Workers

logger = logging.getLogger(__name__)

#: Changes are told at once, but no more often than this: a worker that does a hundred jobs a second is simply busy.
MIN_SECONDS = 0.2


class Heartbeat:
    """Beats from a thread of its own; a change of the record is told at once."""

    def __init__(self, store: Store, workers: Workers, record: WorkerRecord) -> None:
        self._read_memory: Callable[[], DeviceMemory | None] = lambda: None
        self._store = store
        self._workers = workers
        self._record = record
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def update(self, **changes: object) -> None:
        """Change fields of the record."""
        with self._changed:
            self._record = self._record.model_copy(update=changes)
            self._changed.notify()

    def report_memory(self, memory: Callable[[], DeviceMemory | None]) -> None:
        """Have every beat from now on tell how full the device is."""
        self._read_memory = memory

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped:
            record = self._record
            self._beat(record)
            with self._changed:
                self._changed.wait_for(lambda: self._stopped, MIN_SECONDS)
                self._changed.wait_for(lambda: self._stopped or self._record is not record, HEARTBEAT_SECONDS)  # noqa: B023
        with suppress(StoreUnavailable):
            self._store.run(self._workers.unregister(self._record.id))

    def _beat(self, record: WorkerRecord) -> None:
        try:
            self._store.run(self._workers.heartbeat(record.model_copy(update={"memory": self._read_memory()})))
        except StoreUnavailable:
            logger.debug("Redis does not answer; the next beat comes")
        except Exception:
            # A worker that is not heard of counts as lost: whatever goes wrong once, the next beat has to come.
            logger.exception("a beat failed")
