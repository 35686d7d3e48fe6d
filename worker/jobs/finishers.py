"""Finishing rendered jobs: inline, or in the background while the next jobs render."""

import logging
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


@contextmanager
def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> Iterator[Iterator[R]]:
    """The result for each item in order, each as soon as it is known; it raises what the work raises.

    All work has ended at the end of the block, also by an error.
    """
    if len(items) == 1:
        yield map(work, items)
        return

    def run(context: Context, item: T) -> R:
        return context.run(work, item)

    with ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="side-by-side") as threads:
        yield threads.map(run, [copy_context() for _ in items], items)
