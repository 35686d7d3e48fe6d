"""What threads do when Redis does not answer: retry what must not be lost, or go on without."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shared.errors import StoreUnavailable

logger = logging.getLogger(__name__)

#: Longest pause between two attempts.
MAX_BACKOFF_SECONDS = 5.0

T = TypeVar("T")


def retry_until_available(call: Callable[[], T]) -> T:
    """Repeat a call until Redis answers, and return its result."""
    pause = 0.1
    while True:
        try:
            return call()
        except StoreUnavailable:
            logger.warning("Redis does not answer; retrying in %.1f s", pause)
            time.sleep(pause)
            pause = min(2 * pause, MAX_BACKOFF_SECONDS)


@contextmanager
def errors_logged(work: str) -> Iterator[None]:
    """For work that is done again and again: whatever goes wrong once, the next round has to come."""
    try:
        yield
    except StoreUnavailable:
        logger.debug("%s failed because Redis does not answer; the next round follows", work)
    except Exception:
        logger.exception("%s failed", work)
