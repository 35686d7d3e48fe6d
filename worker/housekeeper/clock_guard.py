"""Notices a clock that is set by mistake, before retention takes everything for old."""

import time
from collections.abc import Callable
from datetime import datetime

DAY_SECONDS = 86_400
#: Retention counts days. The clocks of hosts may differ by less.
MAX_DAYS_APART = 1


class ClockGuard:
    """Compares the clock of Redis with this machine's, as that was in the last round, and the time since.

    So it also notices a step of the clock that both share, such as that of a virtual machine that resumes. After a step
    one or two rounds are left out: it may be right, because the machine has slept for days.
    """

    def __init__(self, local_seconds: Callable[[], float] = time.time) -> None:
        self._local_seconds = local_seconds
        self._epoch = self._local_epoch()

    def refusal(self, now: datetime) -> str | None:
        """Why this round must not delete anything, if the clock of Redis shows `now`."""
        expected, self._epoch = self._epoch + time.monotonic(), self._local_epoch()
        days = (now.timestamp() - expected) / DAY_SECONDS
        if abs(days) <= MAX_DAYS_APART:
            return None
        difference = f"{abs(days):.0f} days {'ahead of' if days > 0 else 'behind'}"
        return (
            f"Retention waits: the clock of Redis shows {now:%Y-%m-%d %H:%M} UTC, {difference} this machine's clock in "
            "the last round. If this lasts, synchronise the clocks."
        )

    def _local_epoch(self) -> float:
        return self._local_seconds() - time.monotonic()
