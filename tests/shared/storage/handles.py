"""Real faults of a disk that pass, or do not."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

#: Where Linux answers every read at the beginning with EIO.
UNREADABLE = "/proc/self/mem"


@contextmanager
def no_handles() -> Iterator[None]:
    """This process can open nothing more: EMFILE."""
    held, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest number that is free; none below it is.
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held, hard))
