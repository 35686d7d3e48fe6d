"""When jobs are ended: at once, or beside the rendering of those that come next."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

logger = logging.getLogger(__name__)


class Finisher(Protocol):
    def run(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """See to it that `work` is done, then `then`."""
        ...

    def drain(self) -> None:
        """Until nothing is under way."""
        ...


class InlineFinisher:
    """Before the call returns; for jobs that run side by side anyway."""

    def run(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        try:
            work()
        finally:
            then()

    def drain(self) -> None:
        pass


class BackgroundFinisher:
    """On a thread of its own. One call is under way at most: the next waits for it, so that nothing piles up."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="finishing")
        self._under_way: Future[None] | None = None

    def run(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self.drain()
        self._under_way = self._thread.submit(_logged, work, then)

    def drain(self) -> None:
        if self._under_way is not None:
            wait((self._under_way,))


def _logged(work: Callable[[], None], then: Callable[[], None]) -> None:
    try:
        InlineFinisher().run(work, then)
    except Exception:
        logger.exception("a job could not be ended; its lease will lapse")
