"""Time and bytes that an exchange with a foreign server may take."""

import time

from shared.errors import OutboundTimeout, ResponseTooLarge

MAX_HEADER_BYTES = 64 << 10


class ExchangeBudget:
    """Time and bytes that are left for an exchange."""

    def __init__(self, seconds: float, body_bytes: int) -> None:
        self._end = time.monotonic() + seconds
        # A quarter more for the framing of a chunked body.
        self._bytes = body_bytes + body_bytes // 4 + MAX_HEADER_BYTES

    @property
    def time_left(self) -> float:
        """In seconds; negative if the time is up."""
        return self._end - time.monotonic()

    def require_time(self) -> float:
        """Seconds left. Raises OutboundTimeout if there are none."""
        if (seconds := self.time_left) <= 0:
            raise OutboundTimeout
        return seconds

    def spend_bytes(self, count: int) -> None:
        """Raises ResponseTooLarge."""
        self._bytes -= count
        if self._bytes < 0:
            raise ResponseTooLarge
