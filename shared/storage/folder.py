"""Files in a folder of this machine, or of a disk that machines share."""

import asyncio
import hashlib
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
from functools import lru_cache
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

T = TypeVar("T")

STAGED = "."
_NOT_SUPPORTED = frozenset({EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP, EPERM})
#: Parts of the name of a day.
_YEAR, _PART = re.compile(r"\d{4}"), re.compile(r"\d\d")


@dataclass(frozen=True)
class FolderStore:
    root: Path
    timeouts: StorageTimeouts = field(default=StorageTimeouts(retry_seconds=3, request_seconds=15))

    @property
    def location(self) -> str:
        return f"SD_OUTPUT_DIR={self.root}"

    def path(self, name: str) -> Path:
        return self.root / name

    def create(self, name: str, data: bytes, staged: str) -> bool:
        return retry_while_unavailable(lambda: self._create(self.path(name), data, staged), self.timeouts.retry_seconds)

    def _create(self, path: Path, data: bytes, staged: str) -> bool:
        staging = self.root / STAGING_FOLDER / f"{staged}.{uuid4()}"
        try:
            with translate_write_errors():
                _make(staging.parent)
                with staging.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                _make(path.parent)
                is_new = _settle(staging, path)
                # Also where the file is another's: what is told of it is to be as safe.
                _sync(path.parent)
                return is_new
        finally:
            with suppress(OSError):
                staging.unlink()

    def read(self, name: str) -> bytes | None:
        return self._reached(self.path(name).read_bytes)

    async def read_chunk(self, name: str, start: int, end: int, version: object = None) -> Chunk | None:
        def read() -> Chunk:
            # A file that is being sent is sent to its end, also where it is removed meanwhile.
            held = version if isinstance(version, _Held) else _Held(self.path(name))
            return Chunk(os.pread(held.descriptor, end - start, start), held.size, held.sha256, held)

        return await asyncio.to_thread(self._reached, read)

    async def signed_url(self, name: str) -> str | None:  # noqa: ARG002 - nobody else has this disk
        return None

    def _reached(self, work: Callable[[], T]) -> T | None:
        """None for what is certainly not there. Raises StorageUnavailable."""

        def reach() -> T:
            with translate_read_errors():
                return work()

        with suppress(FileNotFoundError):
            return retry_while_unavailable(reach, self.timeouts.retry_seconds)
        return None

    def remove(self, names: Iterable[str]) -> None:
        with translate_read_errors():
            for name in names:
                self.path(name).unlink(missing_ok=True)

    def remove_folder(self, folder: str) -> None:
        shutil.rmtree(self.path(folder), ignore_errors=True)

    def list_days(self) -> list[DayFolder]:
        found = []
        for year in _folders(self.root, _YEAR):
            for month in _folders(self.root / year, _PART):
                for day in _folders(self.root / year / month, _PART):
                    name = f"{year}/{month}/{day}"
                    with suppress(FileNotFoundError), translate_read_errors():
                        found.append(DayFolder(name, self.path(name).stat().st_mtime_ns))
        return found

    def list_files(self, folder: str) -> Iterator[File]:
        with suppress(FileNotFoundError), translate_read_errors(), os.scandir(self.path(folder)) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode):
                        moment = datetime.fromtimestamp(about.st_mtime, UTC)
                        yield File(f"{folder}/{entry.name}", about.st_size, moment)

    def remove_day_if_empty(self, day: DayFolder) -> None:
        # Whoever is about to put a file there makes the folder anew.
        folder = self.path(day.name)
        with suppress(OSError):
            for each in (folder, *folder.parents[:2]):
                each.rmdir()

    def list_folders(self, parent: str) -> Iterator[SubFolder]:
        with translate_read_errors():
            for path in self.path(parent).glob("*"):
                with suppress(FileNotFoundError, NotADirectoryError):
                    files = [file.stat() for file in path.iterdir()]
                    newest = max(about.st_mtime for about in (path.stat(), *files))
                    size = sum(about.st_size for about in files)
                    yield SubFolder(path.name, len(files), size, datetime.fromtimestamp(newest, UTC))

    def create_staging_area(self, parent: str) -> "FolderStagingArea":
        return FolderStagingArea(self.path(parent))

    def disk_usage(self) -> DiskUsage:
        try:
            writable = os.access(self.root, os.W_OK) and not os.statvfs(self.root).f_flag & os.ST_RDONLY
            usage = shutil.disk_usage(self.root)
            return DiskUsage(usage.free, usage.total, error=None if writable else StorageFull())
        except OSError as error:
            return DiskUsage(None, error=StorageFull() if error.errno == ENOENT else log_unavailable(error))


class FolderStagingArea:
    """Files in a folder of their own, which becomes that of a job in one step."""

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._folder = parent / f"{STAGED}{uuid4()}"
        self.holds_files = False

    def start_upload(self) -> "FolderUpload":
        with translate_write_errors():
            _make(self._folder)
            self.holds_files = True
            return FolderUpload(self._folder)

    def commit(self, folder: str) -> None:
        with translate_write_errors():
            _sync(self._folder)
            self._folder.rename(self._parent / folder)
            self.holds_files = False
            _sync(self._parent)

    def discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class FolderUpload(Upload):
    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{STAGED}{uuid4()}"
        super().__init__(self._path.open("w+b"))

    def _commit(self, name: str) -> None:
        os.fsync(self._file.fileno())
        self._path.rename(self._path.with_name(name))

    def _close(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


class _Held:
    """An open file, until nobody refers to it any more. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self.descriptor)
        about = os.fstat(self.descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise FileNotFoundError(ENOENT, "no file")
        self.size = about.st_size
        self.sha256 = _hash_of(path, about.st_ino, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _hash_of(path: Path, _inode: int, _modified_ns: int, _size: int) -> str:
    """Read once for each version of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settle(staging: Path, path: Path) -> bool:
    """Give it its name. False where that name is taken."""
    try:
        # Unlike a rename, it replaces nothing.
        os.link(staging, path)
    except FileExistsError:
        return False
    except OSError as error:
        # Some disks have no links: there, of two that come within microseconds, the later one stays.
        if error.errno not in _NOT_SUPPORTED:
            raise
        if path.exists():
            return False
        staging.rename(path)
    return True


def _folders(parent: Path, named: re.Pattern[str]) -> list[str]:
    """In order."""
    with suppress(FileNotFoundError), translate_read_errors(), os.scandir(parent) as entries:
        return sorted(entry.name for entry in entries if named.fullmatch(entry.name) and entry.is_dir())
    return []


def _make(folder: Path) -> None:
    if not folder.is_dir():
        _make(folder.parent)
        with suppress(FileExistsError):
            folder.mkdir()
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Without this, a power cut may forget that a file was put there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)
