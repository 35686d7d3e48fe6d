"""Values that are read now and then for many callers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class CachedRead(Generic[V]):
    """What `read` returned last, for `seconds`.

    Concurrent callers share one read and its result, also a failure: otherwise each of them would wait for a timeout of
    its own, one after the other.
    """

    def __init__(self, read: Callable[[], Awaitable[V]], seconds: float) -> None:
        self._read = read
        self._seconds = seconds
        self._reading: asyncio.Task[V] | None = None
        self._expires = 0.0

    async def get(self) -> V:
        """Raises what `read` raises."""
        if self._reading is not None and self._reading.done() and time.monotonic() < self._expires:
            return self._reading.result()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_again())
        # A caller that disconnects must not cancel the read for the others.
        return await asyncio.shield(self._reading)

    async def _read_again(self) -> V:
        value = await self._read()
        self._expires = time.monotonic() + self._seconds
        return value
