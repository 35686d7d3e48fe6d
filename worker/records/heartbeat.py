"""A worker's heartbeat: its record in Redis, renewed for as long as it lives."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from shared.errors import StoreUnavailable
from shared.redis.store import Store
from shared.workers.devices import DeviceMemory
from shared.workers.records import HEARTBEAT_SECONDS, WorkerRecord, Workers
from worker.records.redis_retry import errors_logged

logger = logging.getLogger(__name__)

#: Least time between heartbeats: a worker that runs a hundred jobs a second is simply busy.
MIN_SECONDS = 0.2


class Heartbeat:
    """Renews the record on its own thread, and at once when the record changes."""

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

    def report_memory(self, read_memory: Callable[[], DeviceMemory | None]) -> None:
        """Include the device's memory in every heartbeat from now on."""
        self._read_memory = read_memory

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
        # A worker without heartbeats counts as lost.
        with errors_logged("a heartbeat"):
            self._store.run(self._workers.heartbeat(record.model_copy(update={"memory": self._memory()})))

    def _memory(self) -> DeviceMemory | None:
        try:
            return self._read_memory()
        except Exception:
            # A device that does not answer must not cost the worker its record.
            logger.exception("the memory of the device could not be read")
            return None
