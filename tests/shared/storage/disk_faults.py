"""Real faults of a disk, temporary or permanent."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

#: Linux answers every read at the start of this file with EIO.
UNREADABLE = "/proc/self/mem"


@contextmanager
def no_file_handles() -> Iterator[None]:
    """This process can open no more files: EMFILE."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard_limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
