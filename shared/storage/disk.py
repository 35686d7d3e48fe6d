"""What it means when the operating system will not write."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import StorageFull

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


@contextmanager
def writing() -> Iterator[None]:
    """Raises StorageFull when the disk has no room or cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"The picture could not be written: {error.strerror}.") from error
        raise
