"""Store files in an S3-compatible bucket."""

import asyncio
import mmap
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from itertools import chain
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Self

import obstore
from obstore.store import S3Store

from shared.errors import StorageUnavailable
from shared.storage.bucket_connection import (
    PROBE,
    BucketLocation,
    connect,
    supports_conditional_writes,
    translate_errors,
)
from shared.storage.object_store import Chunk, DayFolder, DiskUsage, File, StorageTimeouts, SubFolder, Upload
from shared.storage.os_errors import retry_while_unavailable, translate_write_errors

if TYPE_CHECKING:
    from obstore import GetOptions, PutMode

#: For health checks.
PROBE_TIMEOUTS = StorageTimeouts(retry_seconds=1, request_seconds=2)
#: For deletions: the housekeeper repeats what fails.
DELETE_TIMEOUTS = StorageTimeouts(retry_seconds=1, request_seconds=5)
SIGNED_URL_SECONDS = 300
CACHE_CONTROL = "private, max-age=31536000, immutable"
_YEAR, _MONTH_OR_DAY = re.compile(r"\d{4}"), re.compile(r"\d\d")


@dataclass(frozen=True)
class BucketStore:
    store: S3Store
    timeouts: StorageTimeouts
    probe_store: S3Store
    """The same bucket with short timeouts, as `delete_store` is."""
    delete_store: S3Store
    public_store: S3Store | None
    """The same bucket by its URL for clients."""
    staging_dir: Path
    """Folder for files of unfinished uploads."""
    location: str = "SD_OUTPUT_URL"
    is_conditional: bool = True
    """Whether the service supports conditional writes. Few do not."""

    @classmethod
    def connect(cls, location: BucketLocation, staging_dir: Path, timeouts: StorageTimeouts) -> Self:
        """Raises ConfigurationError for a missing or read-only bucket; an unreachable one may come up later."""
        store, probe, delete = (connect(location, limits) for limits in (timeouts, PROBE_TIMEOUTS, DELETE_TIMEOUTS))
        public = connect(location, timeouts, endpoint=location.public_url) if location.public_url else None
        setting, is_conditional = f"SD_OUTPUT_URL={location.url}", supports_conditional_writes(probe)
        return cls(store, timeouts, probe, delete, public, staging_dir, setting, is_conditional=is_conditional)

    def create(self, name: str, data: bytes, staging_name: str) -> bool:  # noqa: ARG002 - a put is atomic
        path = PurePosixPath(name)
        attributes = {
            "Content-Type": f"image/{path.suffix[1:]}" if path.suffix else "text/plain",
            "Content-Disposition": f'inline; filename="{path.name}"',
            "Cache-Control": CACHE_CONTROL,
            "sha256": sha256(data).hexdigest(),
        }
        # The library does not retry conditional writes. It is safe here: after a lost response, the object is our own.
        return retry_while_unavailable(lambda: self._put(name, data, attributes), self.timeouts.retry_seconds)

    def _put(self, name: str, data: bytes, attributes: dict[str, str]) -> bool:
        if not self.is_conditional and self._exists(name):
            return False
        try:
            with translate_errors():
                # Not multipart: the parts of an upload that crashed would stay in the bucket, invisible and billed.
                mode: PutMode = "create" if self.is_conditional else "overwrite"
                obstore.put(self.store, name, data, attributes=attributes, mode=mode, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def _exists(self, name: str) -> bool:
        try:
            with translate_errors():
                obstore.head(self.store, name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        try:
            with translate_errors():
                return bytes(obstore.get(self.store, name).bytes())
        except FileNotFoundError:
            return None

    def remove(self, names: Iterable[str]) -> None:
        if paths := list(names):
            with translate_errors():
                obstore.delete(self.delete_store, paths)

    def remove_folder(self, folder: str) -> None:
        self.remove([file.name for file in self._list(folder, self.delete_store)])

    def list_days(self) -> list[DayFolder]:
        years = self._list_folders(None, _YEAR)
        months = [month for year in years for month in self._list_folders(year, _MONTH_OR_DAY)]
        return [DayFolder(day) for month in months for day in self._list_folders(month, _MONTH_OR_DAY)]

    def _list_folders(self, parent: str | None, pattern: re.Pattern[str]) -> list[str]:
        with translate_errors():
            prefixes = obstore.list_with_delimiter(self.store, parent)["common_prefixes"]
        return sorted(prefix for prefix in prefixes if pattern.fullmatch(PurePosixPath(prefix).name))

    def list_files(self, folder: str) -> Iterator[File]:
        return self._list(folder, self.store)

    def remove_day_if_empty(self, day: DayFolder) -> None:
        """Do nothing: a bucket has names but no folders."""

    def list_folders(self, parent: str) -> Iterator[SubFolder]:
        files_by_folder: dict[str, list[File]] = {}
        for file in self._list(parent, self.store):
            files_by_folder.setdefault(file.name.removeprefix(f"{parent}/").partition("/")[0], []).append(file)
        for name, files in files_by_folder.items():
            modified_at = max(file.modified_at for file in files)
            yield SubFolder(name, len(files), sum(file.size for file in files), modified_at)

    def create_staging_area(self, parent: str) -> "BucketStagingArea":
        return BucketStagingArea(self, parent)

    def disk_usage(self) -> DiskUsage:
        try:
            with suppress(FileNotFoundError), translate_errors():
                obstore.head(self.probe_store, PROBE)
        except StorageUnavailable as error:
            return DiskUsage(None, error=error)
        return DiskUsage(None)

    async def read_chunk(self, name: str, start: int, end: int, version: object = None) -> Chunk | None:
        options: GetOptions = {"range": (start, end)}
        if version is not None:
            options["if_match"] = str(version)
        try:
            with translate_errors():
                async with asyncio.timeout(self.timeouts.request_seconds):
                    result = await obstore.get_async(self.store, name, options=options)
                    data = bytes(await result.bytes_async())
        except FileNotFoundError:
            return None
        meta = result.meta
        return Chunk(data, meta["size"], result.attributes.get("sha256", ""), meta["e_tag"] or "")

    async def signed_url(self, name: str) -> str | None:
        if self.public_store is None:
            return None
        with translate_errors():
            return await obstore.sign_async(self.public_store, "GET", name, timedelta(seconds=SIGNED_URL_SECONDS))

    def _list(self, folder: str, store: S3Store) -> Iterator[File]:
        with translate_errors():
            for meta in chain.from_iterable(obstore.list(store, folder, chunk_size=1000)):
                yield File(meta["path"], meta["size"], meta["last_modified"])


class BucketStagingArea:
    """Unnamed local files, which vanish with the process, until they are put into the bucket."""

    def __init__(self, bucket: BucketStore, parent: str) -> None:
        self._bucket = bucket
        self._parent = parent
        self._files: dict[str, BinaryIO] = {}
        self.holds_files = False

    def start_upload(self) -> "BucketUpload":
        with translate_write_errors():
            self.holds_files = True
            return BucketUpload(TemporaryFile(dir=self._bucket.staging_dir), self._files)

    def commit(self, folder: str) -> None:
        for name, file in self._files.items():
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, translate_errors():
                obstore.put(self._bucket.store, f"{self._parent}/{folder}/{name}", data, use_multipart=False)
        self.discard()
        self.holds_files = False

    def discard(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


class BucketUpload(Upload):
    def __init__(self, file: BinaryIO, finished: dict[str, BinaryIO]) -> None:
        super().__init__(file)
        self._finished = finished

    def _commit(self, name: str) -> None:
        # A request may contain the same image twice.
        self._finished.setdefault(name, self._file)

    def close(self) -> None:
        if self._file not in self._finished.values():
            self._file.close()
