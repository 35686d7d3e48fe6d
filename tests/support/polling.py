"""Waits for what the service does in the background and announces nowhere."""

import threading
import time
from collections.abc import Callable, Sized

#: Starts take seconds of CPU time, of which a busy machine gives a tenth.
TIMEOUT_SECONDS = 90.0
INTERVAL_SECONDS = 0.05
#: What does not wait is over sooner.
WAITING_SECONDS = 0.1


def wait_until(
    condition: Callable[[], bool | Sized | None], describe: Callable[[], object] = str, seconds: float = TIMEOUT_SECONDS
) -> None:
    """`describe` returns what the assertion says when the time is up."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, describe()
        time.sleep(INTERVAL_SECONDS)


def waits_for(event: threading.Event, call: Callable[[], object]) -> bool:
    """Whether the call goes on until the event is set. Sets it, and returns after the call."""
    calling = threading.Thread(target=call)
    calling.start()
    calling.join(WAITING_SECONDS)
    has_waited = calling.is_alive()
    event.set()
    calling.join()
    return has_waited
