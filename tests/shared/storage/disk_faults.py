"""Real faults of a disk, temporary or permanent."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

#: Linux answers every read at the start of this file with EIO.
UNREADABLE = "/proc/self/mem"


@contextmanager
def no_file_handles() -> Iterator[None]:
    """This process can open no more files: EMFILE."""
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Only the standard streams have numbers below this limit. They stay open, whereas any other file may be
    # closed meanwhile, by another thread or the garbage collector, and its number would be free again.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard_limit))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
