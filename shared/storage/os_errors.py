"""What it means when the operating system will not write, or cannot read."""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shared.errors import StorageFull, StorageUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
#: Everything else that goes wrong says nothing of whether a file is there: a disk that fails for a moment, a file
#: server that restarts, no file handle left, a folder that may not be read.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
LONGEST_PAUSE_SECONDS = 5.0


@contextmanager
def translate_write_errors() -> Iterator[None]:
    """Raises StorageFull when the disk has no room or cannot be written, and StorageUnavailable for what may pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"The image could not be written: {error.strerror}.") from error
        raise log_unavailable(error) from error


@contextmanager
def translate_read_errors() -> Iterator[None]:
    """Raises StorageUnavailable for what may pass, and FileNotFoundError for a file that is certainly not there."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileNotFoundError(error.errno, error.strerror) from error
        raise log_unavailable(error) from error


def retry_while_unavailable(work: Callable[[], T], seconds: float) -> T:
    """Begin anew what the disk fails at, until it works or so much time has passed. Raises StorageUnavailable."""
    end, pause = time.monotonic() + seconds, 0.05
    while True:
        try:
            return work()
        except StorageUnavailable:
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def log_unavailable(error: OSError) -> StorageUnavailable:
    logger.warning("storage: %s", error.strerror or error)
    return StorageUnavailable()
