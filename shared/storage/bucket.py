"""Files in a bucket of S3 or of what speaks like it. Who may: the AWS_ variables of the environment say it."""

import asyncio
import logging
import mmap
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from itertools import chain
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, BinaryIO, Self

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from shared.errors import ConfigurationError, StorageUnavailable
from shared.storage.object_store import Chunk, DayFolder, DiskUsage, File, StorageTimeouts, SubFolder, Upload
from shared.storage.os_errors import retry_while_unavailable, translate_write_errors

if TYPE_CHECKING:
    from obstore import GetOptions, PutMode
    from obstore.store import ClientConfig, RetryConfig, S3Config

logger = logging.getLogger(__name__)

#: One is written when a process starts, so that what is not allowed is known before an image is made.
PROBE = ".imagegen"
#: For what only looks whether somebody answers, and for what another round of the housekeeper makes up for.
PROBING = StorageTimeouts(retry_seconds=1, request_seconds=2)
REMOVING = StorageTimeouts(retry_seconds=1, request_seconds=5)
LINK_SECONDS = 300
_YEAR, _PART = re.compile(r"\d{4}"), re.compile(r"\d\d")
CACHE_CONTROL = "private, max-age=31536000, immutable"


@dataclass(frozen=True)
class BucketLocation:
    """Which bucket, and how it is reached."""

    url: str
    """s3://<bucket>/<prefix>"""
    public_url: str = ""
    """Where clients reach the service that has the bucket; empty where they do not."""
    ca_file: Path | None = None


@dataclass(frozen=True)
class BucketStore:
    store: S3Store
    timeouts: StorageTimeouts
    probing: S3Store
    """The same, of little timeouts, as is `removing`."""
    removing: S3Store
    links: S3Store | None
    """The same, by the address that clients know."""
    scratch: Path
    """Where files are while they come in."""
    location: str = "SD_OUTPUT_URL"
    is_conditional: bool = True
    """Whether the service keeps one object from replacing another, where that is asked for. Few do not."""

    @classmethod
    def connect(cls, location: BucketLocation, scratch: Path, timeouts: StorageTimeouts) -> Self:
        """Raises ConfigurationError for no bucket, or one that may not be written to; a silent one may come yet."""
        store, probing, removing = (_open(location, limits) for limits in (timeouts, PROBING, REMOVING))
        links = _open(location, timeouts, endpoint=location.public_url) if location.public_url else None
        setting, is_conditional = f"SD_OUTPUT_URL={location.url}", _supports_conditional_writes(probing)
        return cls(store, timeouts, probing, removing, links, scratch, setting, is_conditional=is_conditional)

    def create(self, name: str, data: bytes, staged: str) -> bool:  # noqa: ARG002 - what is put is there whole or not at all
        path = PurePosixPath(name)
        attributes = {
            "Content-Type": f"image/{path.suffix[1:]}" if path.suffix else "text/plain",
            "Content-Disposition": f'inline; filename="{path.name}"',
            "Cache-Control": CACHE_CONTROL,
            "sha256": sha256(data).hexdigest(),
        }
        # The library tries again only what it may do twice. This may be: whoever was told nothing finds its own.
        return retry_while_unavailable(lambda: self._put(name, data, attributes), self.timeouts.retry_seconds)

    def _put(self, name: str, data: bytes, attributes: dict[str, str]) -> bool:
        if not self.is_conditional and self._holds(name):
            return False
        try:
            with _translated():
                # In one request: of several, those before a crash would stay in the bucket, unseen and paid for.
                mode: PutMode = "create" if self.is_conditional else "overwrite"
                obstore.put(self.store, name, data, attributes=attributes, mode=mode, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def _holds(self, name: str) -> bool:
        try:
            with _translated():
                obstore.head(self.store, name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes | None:
        try:
            with _translated():
                return bytes(obstore.get(self.store, name).bytes())
        except FileNotFoundError:
            return None

    def remove(self, names: Iterable[str]) -> None:
        if listed := list(names):
            with _translated():
                obstore.delete(self.removing, listed)

    def remove_folder(self, folder: str) -> None:
        self.remove([file.name for file in self._listed(folder, self.removing)])

    def list_days(self) -> list[DayFolder]:
        years = self._below(None, _YEAR)
        months = [month for year in years for month in self._below(year, _PART)]
        return [DayFolder(day) for month in months for day in self._below(month, _PART)]

    def _below(self, folder: str | None, named: re.Pattern[str]) -> list[str]:
        """In order."""
        with _translated():
            found = obstore.list_with_delimiter(self.store, folder)["common_prefixes"]
        return sorted(each for each in found if named.fullmatch(PurePosixPath(each).name))

    def list_files(self, folder: str) -> Iterator[File]:
        return self._listed(folder, self.store)

    def remove_day_if_empty(self, day: DayFolder) -> None:
        """There are no folders, only names."""

    def list_folders(self, parent: str) -> Iterator[SubFolder]:
        found: dict[str, list[File]] = {}
        for file in self._listed(parent, self.store):
            found.setdefault(file.name.removeprefix(f"{parent}/").partition("/")[0], []).append(file)
        for name, files in found.items():
            newest = max(file.modified_at for file in files)
            yield SubFolder(name, len(files), sum(file.size for file in files), newest)

    def create_staging_area(self, parent: str) -> "BucketStagingArea":
        return BucketStagingArea(self, parent)

    def disk_usage(self) -> DiskUsage:
        try:
            with suppress(FileNotFoundError), _translated():
                obstore.head(self.probing, PROBE)
        except StorageUnavailable as error:
            return DiskUsage(None, error=error)
        return DiskUsage(None)

    async def read_chunk(self, name: str, start: int, end: int, version: object = None) -> Chunk | None:
        options: GetOptions = {"range": (start, end)}
        if version is not None:
            options["if_match"] = str(version)
        try:
            with _translated():
                async with asyncio.timeout(self.timeouts.request_seconds):
                    found = await obstore.get_async(self.store, name, options=options)
                    data = bytes(await found.bytes_async())
        except FileNotFoundError:
            return None
        meta = found.meta
        return Chunk(data, meta["size"], found.attributes.get("sha256", ""), meta["e_tag"] or "")

    async def signed_url(self, name: str) -> str | None:
        if self.links is None:
            return None
        with _translated():
            return await obstore.sign_async(self.links, "GET", name, timedelta(seconds=LINK_SECONDS))

    def _listed(self, folder: str, store: S3Store) -> Iterator[File]:
        with _translated():
            for each in chain.from_iterable(obstore.list(store, folder, chunk_size=1000)):
                yield File(each["path"], each["size"], each["last_modified"])


class BucketStagingArea:
    """Files without a name on this machine, which nobody has to remove, until they go into the bucket."""

    def __init__(self, bucket: BucketStore, parent: str) -> None:
        self._bucket = bucket
        self._parent = parent
        self._files: dict[str, BinaryIO] = {}
        self.holds_files = False

    def start_upload(self) -> "BucketUpload":
        with translate_write_errors():
            self.holds_files = True
            return BucketUpload(TemporaryFile(dir=self._bucket.scratch), self._files)

    def commit(self, folder: str) -> None:
        for name, file in self._files.items():
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, _translated():
                obstore.put(self._bucket.store, f"{self._parent}/{folder}/{name}", data, use_multipart=False)
        self.discard()
        self.holds_files = False

    def discard(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


class BucketUpload(Upload):
    def __init__(self, file: BinaryIO, settled: dict[str, BinaryIO]) -> None:
        super().__init__(file)
        self._settled = settled

    def _commit(self, name: str) -> None:
        # The same image may come twice.
        if name not in self._settled:
            self._settled[name] = self._file

    def _close(self) -> None:
        if self._file not in self._settled.values():
            self._file.close()


def _open(location: BucketLocation, timeouts: StorageTimeouts, endpoint: str = "") -> S3Store:
    """Raises ConfigurationError."""
    client: ClientConfig = {
        # Whoever names an endpoint without TLS wants it.
        "allow_http": True,
        "connect_timeout": timedelta(seconds=2),
        "timeout": timedelta(seconds=timeouts.request_seconds),
    }
    if location.ca_file:
        client["root_certificate"] = location.ca_file.read_bytes()
    config: S3Config = {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint} if endpoint else {}
    retry: RetryConfig = {
        "max_retries": 1000,
        "retry_timeout": timedelta(seconds=timeouts.retry_seconds),
        "backoff": {"max_backoff": timedelta(seconds=5)},
    }
    name, _, prefix = location.url.removeprefix("s3://").partition("/")
    try:
        return S3Store(name, prefix=prefix or None, config=config, client_options=client, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise ConfigurationError(f"SD_OUTPUT_URL is wrong: {str(error).partition(chr(10))[0]}") from None


def _supports_conditional_writes(store: S3Store) -> bool:
    """Whether it has conditional writes. Raises ConfigurationError."""
    try:
        with _translated():
            obstore.put(store, PROBE, b"imagegen", use_multipart=False)
            obstore.put(store, PROBE, b"imagegen", mode="create", use_multipart=False)
    except FileExistsError:
        return True
    except StorageUnavailable as error:
        match error.__cause__:
            case FileNotFoundError():
                raise ConfigurationError("SD_OUTPUT_URL is wrong: there is no such bucket.") from None
            case PermissionDeniedError() | UnauthenticatedError():
                raise ConfigurationError(
                    "SD_OUTPUT_URL is wrong, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are: the bucket may not be "
                    "written to."
                ) from None
            case cause:
                # One that does not answer may come yet.
                return "NotImplemented" not in str(cause)
    return False


@contextmanager
def _translated() -> Iterator[None]:
    """Raises StorageUnavailable, FileNotFoundError for a file that is not there, FileExistsError for one that is."""
    try:
        yield
    except AlreadyExistsError as error:
        raise FileExistsError from error
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error):
            raise
        raise _unavailable(error) from error
    except (BaseError, TimeoutError) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> StorageUnavailable:
    # What follows the first line tells of the library.
    logger.warning("storage: %s", str(error).partition("\n")[0] or "no answer in time")
    return StorageUnavailable()
