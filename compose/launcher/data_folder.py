"""The data folder of a running service: its lock, and the address of its embedded Redis for other commands."""

import errno
import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from shared.errors import ConfigurationError

LOCK = "lock"
#: Exists while the service runs.
REDIS_URL = "redis-url"


def is_running(folder: Path) -> bool:
    """Whether a running service uses this data folder. Raises ConfigurationError."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except PermissionError:
        raise of_another_user(folder) from None
    except OSError:
        pass
    return False


def embedded_redis_url(folder: Path) -> str | None:
    """None while the service is not running, unless it was killed. Raises ConfigurationError."""
    try:
        return (folder / REDIS_URL).read_text()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise of_another_user(folder) from None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two Redis servers would destroy each other's files. Raises ConfigurationError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise _unusable(folder, error) from None
    with lock:
        if not _try_lock(lock):
            raise already_running(folder)
        yield


def already_running(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"imagegen is already running with SD_DATA_DIR={folder.absolute()}: stop it, or choose another folder."
    )


def of_another_user(folder: Path) -> ConfigurationError:
    return ConfigurationError(
        f"SD_DATA_DIR={folder.absolute()} belongs to another user: call imagegen as the user of the service."
    )


def _try_lock(lock: IO[str]) -> bool:
    """Retries: `imagegen status` holds the lock for an instant to see whether it is taken."""
    for _ in range(5):
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


@contextmanager
def published_redis_url(folder: Path, url: str) -> Iterator[None]:
    """Writes the address of the embedded Redis for other commands. Raises ConfigurationError."""
    file = folder / REDIS_URL
    try:
        if url:
            file.write_text(url)
    except OSError as error:
        raise _unusable(folder, error) from None
    with removed(file):
        yield


@contextmanager
def removed(path: Path) -> Iterator[None]:
    """Removes the file or folder at the end."""
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()


def _unusable(folder: Path, error: OSError) -> ConfigurationError:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free space on its disk" if is_full else "choose a folder that this user may write to"
    return ConfigurationError(f"SD_DATA_DIR={folder.absolute()} cannot be used ({error.strerror}): {remedy}.")
