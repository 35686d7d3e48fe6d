"""The time that running jobs have to finish once their worker has to stop."""

import signal
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread


def begin(seconds: float, end: Callable[[], None]) -> None:
    """Call `end` on a thread after so many seconds, or at once on SIGINT: somebody pressed Ctrl-C again."""
    interrupts: SimpleQueue[None] = SimpleQueue()
    signal.signal(signal.SIGINT, lambda *_: interrupts.put(None))

    def wait() -> None:
        with suppress(Empty):
            interrupts.get(timeout=seconds)
        end()

    Thread(target=wait, name="grace-period", daemon=True).start()
