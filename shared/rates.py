"""How often somebody may ask, counted in Redis for all API processes together."""

from dataclasses import replace
from typing import TypeVar

from shared.keys import Keys
from shared.store import Operation

T = TypeVar("T")


class Rates:
    """`per_second` is what may be asked for long, 0 for no limit; `burst` what may come at once before that counts."""

    def __init__(self, prefix: str, per_second: float, burst: int) -> None:
        self._keys = Keys(prefix)
        self._cost_us = round(1_000_000 / per_second) if per_second else 0
        self._ahead_us = (burst - 1) * self._cost_us

    def counted(self, operation: Operation[T], account: str, weight: int = 1) -> Operation[T]:
        """The same operation, which in its one step also counts a request; running it raises RateLimited.

        `weight` is how many others it costs as much as.
        """
        if not self._cost_us:
            return operation
        return replace(
            operation,
            script=f"rate+{operation.script}",
            keys=[self._keys.rate(account), *operation.keys],
            args=[self._cost_us * weight, self._ahead_us, *operation.args],
        )
