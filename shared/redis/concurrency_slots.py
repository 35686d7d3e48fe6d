"""Concurrency slots, shared by all workers of a backend."""

from collections.abc import Sequence

from shared.jobs.types import Backend
from shared.redis.keys import Keys
from shared.redis.store import Operation

#: A slot outlives a lost worker by this time and, if somebody waits for it, half of it more.
SLOT_LEASE_MS = 10_000
#: How often a worker renews its slots.
SLOT_RENEW_SECONDS = 2.0


class ConcurrencySlots:
    """Operations on the slots of one backend."""

    def __init__(self, prefix: str, backend: Backend, limit: int) -> None:
        self._key = Keys(prefix).slots(backend)
        self._limit = limit

    def acquire(self, holder: str) -> Operation[bool]:
        """False when none is free."""
        return Operation("limits/slot_acquire", [self._key], [holder, self._limit, SLOT_LEASE_MS], bool)

    def renew(self, holders: Sequence[str]) -> Operation[bool]:
        return Operation("limits/slot_renew", [self._key], [SLOT_LEASE_MS, *holders], bool)

    def release(self, holder: str) -> Operation[bool]:
        return Operation("commands/run", [self._key], ["ZREM", holder], bool)
