"""Holding a concurrency slot while a job calls a provider."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from shared.errors import StoreUnavailable
from shared.redis.concurrency_slots import SLOT_RENEW_SECONDS, ConcurrencySlots
from shared.redis.store import Store
from worker.records.redis_retry import errors_logged

#: Pause between two attempts to acquire a slot.
RETRY_SECONDS = 0.2


class RedisConcurrencySlots:
    """Slots that all workers share. A thread renews those of this process; those of a dead worker expire."""

    def __init__(self, store: Store, slots: ConcurrencySlots) -> None:
        self._store = store
        self._slots = slots
        self._holders: set[str] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._renew, name="slots", daemon=True).start()

    @contextmanager
    def held(self, check: Callable[[], None]) -> Iterator[None]:
        """Wait for a slot, also while Redis is away, and hold it. `check` may raise to end the wait."""
        holder = uuid.uuid4().hex
        while not self._acquire(holder):
            check()
            time.sleep(RETRY_SECONDS)
        with self._lock:
            self._holders.add(holder)
        try:
            yield
        finally:
            with self._lock:
                self._holders.discard(holder)
            # A slot that cannot be released now expires.
            with suppress(StoreUnavailable):
                self._store.run(self._slots.release(holder))

    def _acquire(self, holder: str) -> bool:
        try:
            return self._store.run(self._slots.acquire(holder))
        except StoreUnavailable:
            return False

    def _renew(self) -> None:
        while True:
            time.sleep(SLOT_RENEW_SECONDS)
            with self._lock:
                holders = sorted(self._holders)
            if holders:
                with errors_logged("a renewal of slots"):
                    self._store.run(self._slots.renew(holders))
