"""One measure that fails, hangs or breaks its device leaves the others."""

import signal
import subprocess
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from bench.figures import Figure

#: For a process to stop what it has started.
STOP_SECONDS = 30.0


def until_failure(what: str, figures: Iterable[Figure], skip: Callable[[str], None]) -> Iterator[Figure]:
    """The figures until one cannot be measured. The reason is printed whole, because nobody can look there later."""
    try:
        yield from figures
    except Exception as error:
        lines = "".join(traceback.format_exception(error)).splitlines()
        print(f"{what} failed:", *lines[-60:], sep="\n", flush=True)
        skip(f"the rest of {what}: {type(error).__name__}: {str(error).strip()[:200]}")


def run_limited(command: list[str], seconds: float) -> int | None:
    """Run a command, and interrupt it when time is up. Its exit status; None if it had to be stopped."""
    process = subprocess.Popen(command)
    try:
        return process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        # As Ctrl-C would: Python's blocks end in order, and pytest reports the tests that have run.
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        return None
    finally:
        process.kill()
        process.wait()
