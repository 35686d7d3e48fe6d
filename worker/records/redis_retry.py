"""Retrying Redis operations whose result must not be lost."""

import logging
import time
from collections.abc import Callable
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
