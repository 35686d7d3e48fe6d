"""How much somebody may ask for, counted in Redis for all API processes together."""

from shared.redis.keys import Keys
from shared.redis.store import Operation


class RateLimits:
    """`per_second` is what may be asked for long, 0 for no limit; `burst` what may come at once before that counts."""

    def __init__(self, prefix: str, per_second: float, burst: int) -> None:
        self._keys = Keys(prefix)
        self.cost_us = round(1_000_000 / per_second) if per_second else 0
        self.burst_us = (burst - 1) * self.cost_us

    def take(self, account: str, required: int, optional: int, *, already_counted: bool = False) -> Operation[int]:
        """Take `required` units, and up to `optional` more; how many were taken. Running it raises RateLimited.

        `already_counted`: for a request that has been counted once already, which must not stand in its own way.
        """
        burst_us = self.burst_us + (self.cost_us if already_counted else 0)
        return Operation(
            "limits/rate_limit", [self._keys.rate(account)], [self.cost_us, burst_us, required, optional], int
        )
