"""The time as the store has it."""

import math
import time
from datetime import UTC, datetime


class StoreClock:
    """Processes on hosts whose clocks differ agree on the store's. Until that was read, it is this machine's."""

    def __init__(self) -> None:
        self._epoch = time.time() - time.monotonic()
        self._synced_at = -math.inf

    def sync(self, store_ms: float, requested_at: float) -> None:
        """`requested_at`, by time.monotonic(), is from before the question: the estimate is early, never late."""
        self._epoch = store_ms / 1000 - requested_at
        self._synced_at = requested_at

    def age(self, now: float) -> float:
        """Seconds since it was read, at `now` by time.monotonic()."""
        return now - self._synced_at

    def time(self) -> float:
        """Seconds since 1970."""
        return self._epoch + time.monotonic()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time(), UTC)
