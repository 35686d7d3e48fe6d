"""What the homes of images have in common: files by name, and images on their way in."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from shared.errors import StorageFull, StorageUnavailable
from shared.storage.image_headers import ImageHeader, read_header
from shared.storage.os_errors import translate_write_errors

#: How images that came with requests are named on record.
HASH_PREFIX = "sha256:"
#: Where files are until they have their names. What is still there when nobody can be writing it is of a crash.
STAGING_FOLDER = ".staging"


@dataclass(frozen=True)
class File:
    name: str
    size: int
    modified_at: datetime


@dataclass(frozen=True)
class DayFolder:
    """What was asked for on one day."""

    name: str
    """As in `2026/11/23`."""
    version: int | None = None
    """Another one whenever a file came or went; None where that cannot be told without looking at all of them."""


@dataclass(frozen=True)
class SubFolder:
    """`modified_at` is when anything in it changed last."""

    name: str
    files: int
    bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class DiskUsage:
    """Whether a storage takes more files."""

    free_bytes: int | None
    """None where there is no limit, or it cannot be told."""
    size_bytes: int | None = None
    error: StorageFull | StorageUnavailable | None = None
    """Why it takes none."""

    @property
    def is_writable(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class StorageTimeouts:
    """How long a storage that fails is waited for."""

    retry_seconds: float
    """What fails is begun anew until then."""
    request_seconds: float
    """For each try, with all that it sends or gets, where it goes over a network."""


@dataclass(frozen=True)
class Chunk:
    """A part of a file, and what the whole of it is."""

    data: bytes
    size: int
    sha256: str
    version: object
    """By which its storage finds the very same file again."""


class ObjectStore(Protocol):
    """Where files are kept under names such as `2026/11/23/x.png`, made of ids and hashes alone.

    Every method may raise StorageUnavailable, and block.
    """

    @property
    def location(self) -> str:
        """The setting that names it."""
        ...

    def create(self, name: str, data: bytes, staged: str) -> bool:
        """Write a file that never changes again. False, and nothing is written, where there is one of this name.

        All of it is there or, if this process dies meanwhile, nothing under this name; once this returns it is safe.
        `staged` tells in the name that it has until then what it is of. Raises StorageFull.
        """
        ...

    def read(self, name: str) -> bytes | None:
        """None for what is certainly not there."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Those that are there."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and what is in it, if it is there."""
        ...

    def list_days(self) -> list[DayFolder]:
        """Those that hold images, oldest first."""
        ...

    def list_files(self, folder: str) -> Iterator[File]:
        """Those in it, in no order, as they are found. Those that vanish meanwhile are left out."""
        ...

    def remove_day_if_empty(self, day: DayFolder) -> None:
        """Remove what is left of a day that has no files any more."""
        ...

    def list_folders(self, parent: str) -> Iterator[SubFolder]:
        """Those right below `parent`, in no order. Those that vanish meanwhile are left out."""
        ...

    def create_staging_area(self, parent: str) -> "StagingArea":
        """For files that will have a folder below `parent`, or none."""
        ...

    def disk_usage(self) -> DiskUsage:
        """Raises nothing."""
        ...

    async def read_chunk(self, name: str, start: int, end: int, version: object = None) -> Chunk | None:
        """Bytes from `start` to before `end`; None where the file is gone, or is not of that version any more."""
        ...

    async def signed_url(self, name: str) -> str | None:
        """Address where clients may fetch it themselves for a while, if they are to."""
        ...


async def stream_chunks(
    storage: ObjectStore, name: str, first: Chunk, start: int, end: int, size: int
) -> AsyncIterator[bytes]:
    """From `start` to before `end` in chunks of `size` bytes, of which the first is here already.

    One is in memory at a time, and nothing is asked of the storage while a slow client takes it.
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
    """Files on their way in. Every method may raise StorageFull and StorageUnavailable."""

    holds_files: bool

    def start_upload(self) -> "Upload": ...

    def commit(self, folder: str) -> None:
        """When this returns they are safe in a folder of this name, and staged no more."""
        ...

    def discard(self) -> None: ...


@dataclass(frozen=True)
class StoredUpload:
    reference: str
    header: ImageHeader


class Upload(ABC):
    """A file that comes in chunks. One that did not become an image goes when it is closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._close()

    @property
    def size(self) -> int:
        return self._file.tell()

    def write(self, data: bytes) -> None:
        """Raises StorageFull."""
        self._hash.update(data)
        with translate_write_errors():
            self._file.write(data)

    def finish(self, max_pixels: int) -> StoredUpload:
        """Raises StorageFull, and InvalidImage for what is no image or a larger one."""
        with translate_write_errors():
            self._file.flush()
            self._file.seek(0)
            header = read_header(self._file, max_pixels)
        name = self._hash.hexdigest()
        with translate_write_errors():
            self._commit(name)
        return StoredUpload(f"{HASH_PREFIX}{name}", header)

    @abstractmethod
    def _commit(self, name: str) -> None:
        """Stay, under this name."""

    @abstractmethod
    def _close(self) -> None:
        """Go, unless it has settled."""
