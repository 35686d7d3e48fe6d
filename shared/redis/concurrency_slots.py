"""Slots for jobs that run at the same time, counted over all workers of a backend."""

from collections.abc import Sequence

from shared.jobs.requests import Backend
from shared.redis.keys import Keys
from shared.redis.store import Operation

#: How long a place outlives a worker that dies with it.
PLACE_MS = 10_000
#: How often a worker says that it still has its places.
KEEP_SECONDS = 2.0


class ConcurrencySlots:
    """Operations on the places of one backend."""

    def __init__(self, prefix: str, backend: Backend, most: int) -> None:
        self._key = Keys(prefix).places(backend)
        self._most = most

    def take(self, holder: str) -> Operation[bool]:
        """False when none is free."""
        return Operation("limits/slot_acquire", [self._key], [holder, self._most, PLACE_MS], bool)

    def keep(self, holders: Sequence[str]) -> Operation[bool]:
        return Operation("limits/slot_renew", [self._key], [PLACE_MS, *holders], bool)

    def release(self, holder: str) -> Operation[bool]:
        return Operation("limits/slot_release", [self._key], [holder], bool)
