"""Store files by name, and stage uploads: what folders and buckets have in common."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from shared.errors import StorageFull, StorageUnavailable
from shared.storage.image_headers import ImageHeader, read_header
from shared.storage.image_texts import read_texts
from shared.storage.os_errors import translate_write_errors

#: Prefix of the references by which job records name input images.
HASH_PREFIX = "sha256:"
#: Folder for files that are being written. Old files in it are left over from crashes.
STAGING_FOLDER = ".staging"


@dataclass(frozen=True)
class File:
    name: str
    size: int
    modified_at: datetime


@dataclass(frozen=True)
class DayFolder:
    """The images of the jobs that were created on one day."""

    name: str
    """Such as `2026/11/23`."""
    version: int | None = None
    """Changes with every file that is added or removed; None if the storage cannot tell without listing all files."""


@dataclass(frozen=True)
class SubFolder:
    name: str
    files: int
    bytes: int
    modified_at: datetime
    """When anything in it last changed."""


@dataclass(frozen=True)
class DiskUsage:
    """Whether the storage accepts more files."""

    free_bytes: int | None
    """None if there is no limit or it is unknown."""
    size_bytes: int | None = None
    error: StorageFull | StorageUnavailable | None = None
    """Why it accepts none."""

    @property
    def is_writable(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class StorageTimeouts:
    retry_seconds: float
    """How long failed operations are retried."""
    request_seconds: float
    """Limit of each request over the network, including its data."""


@dataclass(frozen=True)
class Chunk:
    """A part of a file, and properties of the whole file."""

    data: bytes
    size: int
    sha256: str
    version: object
    """Passed to `read_chunk`, reads from the same version of the file."""


class ObjectStore(Protocol):
    """Stores files under names such as `2026/11/23/x.png`, which consist of ids and hashes.

    Every method may block and may raise StorageUnavailable.
    """

    @property
    def location(self) -> str:
        """The setting that names this storage, with its value."""
        ...

    def create(self, name: str, data: bytes, staging_name: str) -> bool:
        """Write a file that never changes again. Return False, and write nothing, if the name is taken.

        The file appears whole or, if this process dies, not at all. When this returns, it survives a power failure.
        `staging_name` is part of its name until then. Raises StorageFull.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """None for a file that certainly does not exist."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove the files that exist."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Remove a folder with its files, if it exists."""
        ...

    def list_days(self) -> list[DayFolder]:
        """Days with images, oldest first."""
        ...

    def list_files(self, folder: str) -> Iterator[File]:
        """Files of a folder in any order, without those that vanish meanwhile."""
        ...

    def remove_day_if_empty(self, day: DayFolder) -> None:
        """Remove the folders of a day that has no more files."""
        ...

    def list_folders(self, parent: str) -> Iterator[SubFolder]:
        """Direct subfolders of `parent` in any order, without those that vanish meanwhile."""
        ...

    def create_staging_area(self, parent: str) -> "StagingArea":
        """Prepare uploads that will become a folder below `parent`, or be discarded."""
        ...

    def disk_usage(self) -> DiskUsage:
        """Never raises."""
        ...

    async def read_chunk(self, name: str, start: int, end: int, version: object = None) -> Chunk | None:
        """Bytes from `start` to before `end`; None if the file is gone or `version` no longer exists."""
        ...

    async def signed_url(self, name: str) -> str | None:
        """A temporary URL at which clients can download the file; None if the API has to serve it."""
        ...


async def stream_chunks(
    storage: ObjectStore, name: str, first: Chunk, start: int, end: int, size: int
) -> AsyncIterator[bytes]:
    """Yield bytes from `start` to before `end` in chunks of `size` bytes; `first` is the first one.

    One chunk is in memory at a time, and the storage is idle while a slow client receives it.
    """
    chunk: Chunk | None = first
    while chunk is not None and chunk.data:
        yield chunk.data
        start += len(chunk.data)
        if start >= end:
            return
        chunk = await storage.read_chunk(name, start, min(end, start + size), first.version)
    raise StorageUnavailable


class StagingArea(Protocol):
    """Uploads of one request. Every method may raise StorageFull and StorageUnavailable."""

    holds_files: bool

    def start_upload(self) -> "Upload": ...

    def commit(self, folder: str) -> None:
        """Move the finished uploads to a folder of this name. When this returns, they survive a power failure."""
        ...

    def discard(self) -> None: ...


@dataclass(frozen=True)
class StoredUpload:
    reference: str
    header: ImageHeader


class Upload(ABC):
    """A file that arrives in chunks. Closing it discards it unless it was finished as an image."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    @property
    def size(self) -> int:
        return self._file.tell()

    def write(self, data: bytes) -> None:
        """Raises StorageFull and StorageUnavailable."""
        self._hash.update(data)
        with translate_write_errors():
            self._file.write(data)

    def finish(self, max_pixels: int) -> StoredUpload:
        """Raises StorageFull and StorageUnavailable, and InvalidImage for a file that is not an image or too large."""
        with translate_write_errors():
            self._file.flush()
            self._file.seek(0)
            header = read_header(self._file, max_pixels)
        name = self._hash.hexdigest()
        with translate_write_errors():
            self._commit(name)
        return StoredUpload(f"{HASH_PREFIX}{name}", header)

    def read(self, start: int, size: int) -> bytes:
        """A part of a finished upload."""
        self._file.seek(start)
        return self._file.read(size)

    def read_texts(self) -> dict[str, str]:
        """What tools have written into the image, of a finished upload."""
        return read_texts(self._file)

    @abstractmethod
    def _commit(self, name: str) -> None:
        """Keep the file under this name."""

    @abstractmethod
    def close(self) -> None:
        """Discard the file unless it was committed."""
