"""How much somebody may ask for, counted in Redis for all API processes together."""

from shared.redis.keys import Keys
from shared.redis.store import Operation


class RateLimits:
    """`per_second` is what may be asked for long, 0 for no limit; `burst` what may come at once before that counts."""

    def __init__(self, prefix: str, per_second: float, burst: int) -> None:
        self._keys = Keys(prefix)
        self.cost_us = round(1_000_000 / per_second) if per_second else 0
        self.ahead_us = (burst - 1) * self.cost_us

    def take(self, account: str, needed: int, spare: int, *, begun: bool = False) -> Operation[int]:
        """Take `needed` units, and up to `spare` more; how many were taken. Running it raises RateLimited.

        `begun`: for a request that has been counted once already, which must not stand in its own way.
        """
        ahead_us = self.ahead_us + (self.cost_us if begun else 0)
        return Operation("limits/rate_limit", [self._keys.rate(account)], [self.cost_us, ahead_us, needed, spare], int)
