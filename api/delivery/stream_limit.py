"""How many event streams somebody may have open: each takes a socket and memory of this very process."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import RateLimited

RETRY_SECONDS = 5


class StreamLimit:
    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @property
    def open_streams(self) -> int:
        """Of all clients together."""
        return self._open.total()

    @contextmanager
    def slot(self, client_id: str) -> Iterator[None]:
        """Raises RateLimited."""
        if self._open[client_id] >= self._most:
            raise RateLimited("As many event streams are open as may be; close one first.", RETRY_SECONDS)
        self._open[client_id] += 1
        try:
            yield
        finally:
            self._open[client_id] -= 1
            if not self._open[client_id]:
                del self._open[client_id]
