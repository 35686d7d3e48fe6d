"""Sends many images as one ZIP file, chunk by chunk: memory holds one chunk, however large the file is."""

import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import PurePosixPath

from shared.errors import ImageNotFound, PayloadTooLarge
from shared.jobs.job import Job
from shared.storage.images import image_name
from shared.storage.object_store import ObjectStore, stream_chunks

MAX_ARCHIVED_JOBS = 100
#: Below 4 GiB, where ZIP needs extensions that some programs cannot read.
MAX_ARCHIVE_BYTES = 2 * 1024**3
CHUNK_BYTES = 256 * 1024


async def archive_images(storage: ObjectStore, jobs: Sequence[Job]) -> AsyncIterator[bytes]:
    """The ZIP file with the images of these jobs that still exist.

    Raises ImageNotFound if the jobs have none, PayloadTooLarge and StorageUnavailable.
    """
    images = [(job, image) for job in jobs for image in job.images if not image.flagged]
    if not images:
        raise ImageNotFound("These jobs have no images.")
    if sum(image.bytes or 0 for _, image in images) > MAX_ARCHIVE_BYTES:
        raise PayloadTooLarge(f"These images take more than {MAX_ARCHIVE_BYTES // 1024**3} GiB; ask for fewer.")
    # Read before the response begins, so that an unreachable storage is an error and not a broken file.
    names = [(image_name(job, image.index), job.created_at) for job, image in images]
    await storage.read_chunk(names[0][0], 0, 1)
    return _zip(storage, names)


class _Buffer(io.RawIOBase):
    """Holds what zipfile has written until it is sent. It cannot seek, so zipfile writes sizes after the data."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        self._written += view
        return view.nbytes

    def take(self) -> bytes:
        data, self._written = bytes(self._written), bytearray()
        return data


async def _zip(storage: ObjectStore, files: Sequence[tuple[str, datetime]]) -> AsyncIterator[bytes]:
    """If the storage fails midway, the response is cut off, which clients detect."""
    buffer = _Buffer()
    # Images are compressed already.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, created_at in files:
            first = await storage.read_chunk(name, 0, CHUNK_BYTES)
            if first is None:
                continue
            entry = zipfile.ZipInfo(PurePosixPath(name).name, created_at.timetuple()[:6])
            with archive.open(entry, "w") as file:
                async for data in stream_chunks(storage, name, first, 0, first.size, CHUNK_BYTES):
                    file.write(data)
                    yield buffer.take()
    yield buffer.take()
