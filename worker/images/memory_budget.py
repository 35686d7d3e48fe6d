"""Memory that threads of one process may take for images at the same time: who wants more than is left waits."""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_TICK_SECONDS = 0.2
#: An option of mallopt(3), from malloc.h.
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20


class ImageMemoryBudget:
    """Of `most` bytes. One thread may have more, but nobody anything beside it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._holder: int | None = None
        self._holder_waits = False

    @contextmanager
    def share(self) -> Iterator["MemoryReservation"]:
        """What one thread has of it; given back at the end."""
        share = MemoryReservation(self)
        try:
            yield share
        finally:
            share.resize(0)

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """One thread at a time may let its share grow bit by bit: two that do would wait for each other.

        Nobody passes it by: all others give back what they have without asking for more.
        """
        while not self._turn.acquire(timeout=_TICK_SECONDS):
            check()
        self._holder = threading.get_ident()
        try:
            yield
        finally:
            self._holder = None
            self._turn.release()

    def exchange(self, before: int, after: int, check: Callable[[], None]) -> None:
        """Have `after` in the place of `before`, as soon as that fits or nobody else has any."""
        is_holder = self._holder == threading.get_ident()
        with self._changed:
            try:
                while after > before and (self._is_full(before, after) or (self._holder_waits and not is_holder)):
                    self._holder_waits |= is_holder
                    self._changed.wait(_TICK_SECONDS)
                    check()
                self._taken += after - before
            finally:
                self._holder_waits &= not is_holder
                self._changed.notify_all()

    def _is_full(self, before: int, after: int) -> bool:
        return self._taken > before and self._taken - before + after > self._most


class MemoryReservation:
    """So much of a budget."""

    def __init__(self, budget: ImageMemoryBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def resize(self, count: int, check: Callable[[], None] = lambda: None) -> None:
        """Waits while there is too little left. Raises what `check` raises, which is called meanwhile.

        Only who has the turn may ask for more while it has some.
        """
        self._budget.exchange(self._bytes, count, check)
        self._bytes = count


def return_freed_memory() -> None:
    """Have glibc return large buffers at once; as it comes, it learns to keep them, for each thread by itself."""
    if sys.platform == "linux":
        # Other C libraries are left as they are.
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
