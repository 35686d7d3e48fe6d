"""Reads the file of an image in parts, from any storage."""

from collections.abc import AsyncIterator

from shared.errors import ImageNotFound
from shared.jobs.job import Image, Job
from shared.storage.images import ImageStore, image_name
from shared.storage.object_store import Chunk, ObjectStore, stream_chunks

#: Memory for one reader. Most images are smaller, so one request to the storage is enough.
CHUNK_BYTES = 2 * 1024 * 1024
GONE = "The file of this image is gone or damaged."


async def read_chunks(store: ImageStore, job: Job, image: Image) -> AsyncIterator[bytes]:
    """The whole file. Raises ImageNotFound and StorageUnavailable."""
    name, size = image_name(job, image.index), image.bytes or 0
    first = await first_chunk(store.storage, name, image, 0, size)
    return stream_chunks(store.storage, name, first, 0, size, CHUNK_BYTES)


async def first_chunk(storage: ObjectStore, name: str, image: Image, start: int, end: int) -> Chunk:
    """Read before the answer begins, so that the answer can still be an error.

    Raises ImageNotFound if the file is not the image on record, and StorageUnavailable.
    """
    first = await storage.read_chunk(name, start, min(end, start + CHUNK_BYTES))
    if first is None or (first.size, first.sha256) != (image.bytes, image.sha256):
        raise ImageNotFound(GONE)
    return first
