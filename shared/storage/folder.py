"""Store files in a folder, on a local disk or one that machines share."""

import asyncio
import hashlib
import logging
import os
import re
import shutil
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import EINVAL, ENOENT, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from shared.errors import StorageFull
from shared.storage.object_store import (
    STAGING_FOLDER,
    Chunk,
    DayFolder,
    DiskUsage,
    File,
    StorageTimeouts,
    SubFolder,
    Upload,
)
from shared.storage.os_errors import (
    log_unavailable,
    retry_while_unavailable,
    translate_read_errors,
    translate_write_errors,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TEMPORARY_PREFIX = "."
_NOT_SUPPORTED = frozenset({EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM})
_YEAR, _MONTH_OR_DAY = re.compile(r"\d{4}"), re.compile(r"\d\d")


@dataclass(frozen=True)
class FolderStore:
    root: Path
    timeouts: StorageTimeouts = field(default=StorageTimeouts(retry_seconds=3, request_seconds=15))

    @property
    def location(self) -> str:
        return f"SD_OUTPUT_DIR={self.root}"

    def path(self, name: str) -> Path:
        return self.root / name

    def create(self, name: str, data: bytes, staging_name: str) -> bool:
        path = self.path(name)
        return retry_while_unavailable(lambda: self._create(path, data, staging_name), self.timeouts.retry_seconds)

    def _create(self, path: Path, data: bytes, staging_name: str) -> bool:
        staging = self.root / STAGING_FOLDER / f"{staging_name}.{uuid4()}"
        try:
            with translate_write_errors():
                _create_folder(staging.parent)
                with staging.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                _create_folder(path.parent)
                is_new = _rename_unless_exists(staging, path)
                # Also for a file of another process: the caller will record it.
                _sync_folder(path.parent)
                return is_new
        finally:
            with suppress(OSError):
                staging.unlink()

    def read(self, name: str) -> bytes | None:
        return self._retry_read(self.path(name).read_bytes)

    async def read_chunk(self, name: str, start: int, end: int, version: object = None) -> Chunk | None:
        def read() -> Chunk:
            # An open file can be read to its end even if it is removed meanwhile.
            file = version if isinstance(version, _OpenFile) else _OpenFile(self.path(name))
            return Chunk(os.pread(file.descriptor, end - start, start), file.size, file.sha256, file)

        return await asyncio.to_thread(self._retry_read, read)

    async def signed_url(self, name: str) -> str | None:  # noqa: ARG002 - clients have no access to the disk
        return None

    def _retry_read(self, read: Callable[[], T]) -> T | None:
        """None for a file that certainly does not exist. Raises StorageUnavailable."""
        with suppress(FileNotFoundError):
            return retry_while_unavailable(translate_read_errors()(read), self.timeouts.retry_seconds)
        return None

    def remove(self, names: Iterable[str]) -> None:
        with translate_read_errors():
            for name in names:
                self.path(name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        _remove_tree(self.path(folder))

    def list_days(self) -> list[DayFolder]:
        days = []
        for year in _list_folders(self.root, _YEAR):
            for month in _list_folders(self.root / year, _MONTH_OR_DAY):
                for day in _list_folders(self.root / year / month, _MONTH_OR_DAY):
                    name = f"{year}/{month}/{day}"
                    with suppress(FileNotFoundError), translate_read_errors():
                        days.append(DayFolder(name, self.path(name).stat().st_mtime_ns))
        return days

    def list_files(self, folder: str) -> Iterator[File]:
        with suppress(FileNotFoundError), translate_read_errors(), os.scandir(self.path(folder)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
                        yield File(f"{folder}/{entry.name}", status.st_size, modified_at)

    def remove_day_if_empty(self, day: DayFolder) -> None:
        # A writer that needs the folder creates it again.
        folder = self.path(day.name)
        with suppress(OSError):
            for path in (folder, *folder.parents[:2]):
                path.rmdir()

    def list_folders(self, parent: str) -> Iterator[SubFolder]:
        with translate_read_errors():
            for path in self.path(parent).glob("*"):
                with suppress(FileNotFoundError, NotADirectoryError):
                    files = [file.stat() for file in path.iterdir()]
                    modified_at = max(status.st_mtime for status in (path.stat(), *files))
                    size = sum(status.st_size for status in files)
                    yield SubFolder(path.name, len(files), size, datetime.fromtimestamp(modified_at, UTC))

    def create_staging_area(self, parent: str) -> "FolderStagingArea":
        return FolderStagingArea(self.path(parent))

    def disk_usage(self) -> DiskUsage:
        try:
            is_writable = os.access(self.root, os.W_OK) and not os.statvfs(self.root).f_flag & os.ST_RDONLY
            usage = shutil.disk_usage(self.root)
            return DiskUsage(usage.free, usage.total, error=None if is_writable else StorageFull())
        except OSError as error:
            return DiskUsage(None, error=StorageFull() if error.errno == ENOENT else log_unavailable(error))


class FolderStagingArea:
    """A hidden folder that becomes the folder of a job in one step."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self.holds_files = False

    # Most requests have no files.
    @cached_property
    def _folder(self) -> Path:
        return self._parent / f"{_TEMPORARY_PREFIX}{uuid4()}"

    def start_upload(self) -> "FolderUpload":
        with translate_write_errors():
            _create_folder(self._folder)
            self.holds_files = True
            return FolderUpload(self._folder)

    def commit(self, folder: str) -> None:
        with translate_write_errors():
            _sync_folder(self._folder)
            self._folder.rename(self._parent / folder)
            self.holds_files = False
            _sync_folder(self._parent)

    def discard(self) -> None:
        _remove_tree(self._folder)


class FolderUpload(Upload):
    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{_TEMPORARY_PREFIX}{uuid4()}"
        super().__init__(self._path.open("w+b"))

    def _commit(self, name: str) -> None:
        os.fsync(self._file.fileno())
        self._path.rename(self._path.with_name(name))

    def close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class _OpenFile:
    """A file that stays open as long as something refers to this object. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(ENOENT, "not a regular file")
        self.size = status.st_size
        self.sha256 = _file_hash(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _file_hash(path: Path, _inode: int, _modified_ns: int, _size: int) -> str:
    """Hash each version of a file once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rename_unless_exists(staging: Path, path: Path) -> bool:
    """Give a file its name. False if the name is taken."""
    try:
        # Unlike a rename, a link never replaces a file.
        os.link(staging, path)
    except FileExistsError:
        return False
    except OSError as error:
        # Some disks have no links. There, the later of two writers within microseconds wins.
        if error.errno not in _NOT_SUPPORTED:
            raise
        if path.exists():
            return False
        staging.rename(path)
    return True


def _list_folders(parent: Path, pattern: re.Pattern[str]) -> list[str]:
    with suppress(FileNotFoundError), translate_read_errors(), os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries if pattern.fullmatch(entry.name) and entry.is_dir())
    return []


def _remove_tree(folder: Path) -> None:
    """Remove a folder as far as possible; the housekeeper finds what is left."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("storage: %s could not be removed: %s", folder, error.strerror or error)


def _create_folder(folder: Path) -> None:
    if not folder.is_dir():
        _create_folder(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)
