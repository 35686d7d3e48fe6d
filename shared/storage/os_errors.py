"""Translate errors of the operating system into those of the storage, and retry."""

import errno
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shared.errors import StorageFull, StorageUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
#: All other errors leave open whether a file exists: a disk that fails for a moment, a file server that restarts,
#: too many open files, an unreadable folder.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
MAX_PAUSE_SECONDS = 5.0


@contextmanager
def translate_write_errors() -> Iterator[None]:
    """Raises StorageFull for a full or read-only disk, and StorageUnavailable for errors that may pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(f"The image could not be written: {error.strerror}.") from error
        raise log_unavailable(error) from error


@contextmanager
def translate_read_errors() -> Iterator[None]:
    """Raises FileNotFoundError for a missing file, and StorageUnavailable for all other errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise FileNotFoundError(error.errno, error.strerror) from error
        raise log_unavailable(error) from error


def retry_while_unavailable(operation: Callable[[], T], seconds: float) -> T:
    """Repeat an operation until it succeeds or the time is up. Raises StorageUnavailable."""
    deadline, pause = time.monotonic() + seconds, 0.05
    while True:
        try:
            return operation()
        except StorageUnavailable:
            if time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)


def log_unavailable(error: OSError) -> StorageUnavailable:
    logger.warning("storage: %s", error.strerror or error)
    return StorageUnavailable()
