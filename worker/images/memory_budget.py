"""A memory budget for the images of all threads: a thread that needs more than is left waits."""

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
    """At most `max_bytes` for all reservations together. A single larger reservation has to be the only one."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._reserved = 0
        self._changed = threading.Condition()
        self._growth_lock = threading.Lock()
        self._growing_thread: int | None = None
        self._growing_thread_waits = False

    @contextmanager
    def reserve(self) -> Iterator["MemoryReservation"]:
        """An empty reservation for this thread, released at the end of the block."""
        reservation = MemoryReservation(self)
        try:
            yield reservation
        finally:
            reservation.resize(0)

    @contextmanager
    def exclusive_growth(self, check: Callable[[], None]) -> Iterator[None]:
        """Let one thread at a time grow its reservation step by step: two would wait for each other.

        While that thread waits, no other reservation grows; the others only shrink.
        """
        while not self._growth_lock.acquire(timeout=_TICK_SECONDS):
            check()
        self._growing_thread = threading.get_ident()
        try:
            yield
        finally:
            self._growing_thread = None
            self._growth_lock.release()

    def exchange(self, before: int, after: int, check: Callable[[], None]) -> None:
        """Replace `before` bytes by `after` as soon as they fit, or nothing else is reserved."""
        is_growing_thread = self._growing_thread == threading.get_ident()
        with self._changed:
            try:
                while after > before and (
                    self._is_full(before, after) or (self._growing_thread_waits and not is_growing_thread)
                ):
                    self._growing_thread_waits |= is_growing_thread
                    self._changed.wait(_TICK_SECONDS)
                    check()
                self._reserved += after - before
            finally:
                self._growing_thread_waits &= not is_growing_thread
                self._changed.notify_all()

    def _is_full(self, before: int, after: int) -> bool:
        return self._reserved > before and self._reserved - before + after > self._max_bytes


class MemoryReservation:
    """A part of the budget."""

    def __init__(self, budget: ImageMemoryBudget) -> None:
        self._budget = budget
        self._bytes = 0

    def resize(self, count: int, check: Callable[[], None] = lambda: None) -> None:
        """Wait until `count` bytes fit. Calls `check` regularly meanwhile, and raises what it raises.

        Only inside `exclusive_growth` may a reservation that is not empty grow.
        """
        self._budget.exchange(self._bytes, count, check)
        self._bytes = count


def return_freed_memory() -> None:
    """Make glibc return large buffers to the system at once. By default it learns to keep them, in every thread."""
    if sys.platform == "linux":
        # Other C libraries are left as they are.
        with suppress(AttributeError):
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
