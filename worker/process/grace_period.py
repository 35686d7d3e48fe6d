"""The time that running jobs have to finish once their worker has to stop."""

import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

logger = logging.getLogger(__name__)


def begin(seconds: float, end: Callable[[], None]) -> None:
    """Call `end` on a thread after so many seconds, or at once on SIGINT: somebody pressed Ctrl-C again."""
    interrupts: SimpleQueue[None] = SimpleQueue()
    signal.signal(signal.SIGINT, lambda *_: interrupts.put(None))

    def wait() -> None:
        # Not before SIGINT is handled, and not in a signal handler, which may have interrupted another message.
        logger.info("stopping: running jobs may finish within %g s; SIGINT requeues them at once", seconds)
        with suppress(Empty):
            interrupts.get(timeout=seconds)
        end()

    Thread(target=wait, name="grace-period", daemon=True).start()
