"""How a worker comes by a place among the jobs that run at the same time, and keeps it."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from shared.errors import StoreUnavailable
from shared.redis.concurrency_slots import SLOT_RENEW_SECONDS, ConcurrencySlots
from shared.redis.store import Store

logger = logging.getLogger(__name__)

#: How often it is looked whether a place has become free.
LOOK_SECONDS = 0.2


class RedisConcurrencySlots:
    """Slots that all workers share. Kept from a thread of its own; those of a worker that dies lapse."""

    def __init__(self, store: Store, places: ConcurrencySlots) -> None:
        self._store = store
        self._places = places
        self._held: set[str] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._keep, name="places", daemon=True).start()

    @contextmanager
    def held(self, check: Callable[[], None]) -> Iterator[None]:
        """A place, waited for while `check` does not raise; also while Redis is away."""
        holder = uuid.uuid4().hex
        while not self._taken(holder):
            check()
            time.sleep(LOOK_SECONDS)
        with self._lock:
            self._held.add(holder)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(holder)
            # What cannot be given back now lapses.
            with suppress(StoreUnavailable):
                self._store.run(self._places.release(holder))

    def _taken(self, holder: str) -> bool:
        try:
            return self._store.run(self._places.acquire(holder))
        except StoreUnavailable:
            return False

    def _keep(self) -> None:
        while True:
            time.sleep(SLOT_RENEW_SECONDS)
            with self._lock:
                held = sorted(self._held)
            if held:
                try:
                    self._store.run(self._places.renew(held))
                except StoreUnavailable:
                    logger.debug("Redis does not answer; the next round comes")
                except Exception:
                    logger.exception("slots could not be renewed")
