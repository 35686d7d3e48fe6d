"""Finishing rendered jobs: inline, or in the background while the next jobs render."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

logger = logging.getLogger(__name__)


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
