"""Finishing rendered jobs: inline, or in the background while the next jobs render."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: Jobs that are finished side by side: they wait for disks and networks most of the time.
MOST_AT_ONCE = 4
#: Encoding and storing an image of 512x512 on a local disk takes 4 to 5 ms. Jobs of a batch that take no longer than
#: this are recorded together.
SHORT_SECONDS = 0.005


class Finisher:
    """Finishes jobs before `run` returns; for jobs that run side by side on threads anyway."""

    def run(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Call `work`, then `then`, even if `work` raises."""
        try:
            work()
        finally:
            then()

    def drain(self) -> None:
        """Wait until no work is left."""


class BackgroundFinisher(Finisher):
    """Finishes jobs on one thread. `run` waits for the work before, so that nothing piles up."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="finishing")
        self._pending: Future[None] | None = None

    def run(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self.drain()
        self._pending = self._executor.submit(_run_logged, work, then)

    def drain(self) -> None:
        if self._pending is not None:
            wait((self._pending,))


def _run_logged(work: Callable[[], None], then: Callable[[], None]) -> None:
    try:
        Finisher().run(work, then)
    except Exception:
        logger.exception("a job could not be finished; its lease will expire")


class SideBySide:
    """Works on several items at once, on threads, unless the last ones took little time.

    Then threads cost more than they save, because they wait for the GIL after every system call. A wrong guess costs
    one batch.
    """

    def __init__(self) -> None:
        self._is_short = False

    @contextmanager
    def run(self, work: Callable[[T], R], items: Sequence[T]) -> Iterator[Iterator[R]]:
        """The result for each item in order, each as soon as it is known; it raises what the work raises.

        All work has ended at the end of the block, also by an error.
        """
        seconds = list[float]()

        def timed(item: T) -> R:
            begin = time.perf_counter()
            try:
                return work(item)
            finally:
                seconds.append(time.perf_counter() - begin)

        def run(context: Context, item: T) -> R:
            return context.run(timed, item)

        if self._is_short or len(items) == 1:
            yield map(timed, items)
        else:
            with ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="side-by-side") as threads:
                yield threads.map(run, [copy_context() for _ in items], items)
        # On threads, the fastest item comes closest to the time that it would take alone.
        self._is_short = min(seconds) < SHORT_SECONDS
