"""Sends answers with images as base64 in their JSON, chunk by chunk.

Memory holds one chunk of each answer, and reads wait for slow clients. So the cost of an answer does not grow with its
images, and the limit of connections bounds the cost of all answers.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from api.delivery.image_files import FileStream, image_exists
from shared.errors import ImageNotFound, StorageUnavailable
from shared.jobs.job import Image, Job
from shared.jobs.states import State
from shared.storage.images import ImageStore, image_name

#: A multiple of 3, because base64 turns 3 bytes into 4 characters.
CHUNK_BYTES = 384 * 1024
#: Limit of chunks encoded at a time, so that threads remain for other work.
MAX_ENCODING = 2
CANCELLED = "The job was cancelled; it has no image."


@dataclass(frozen=True)
class InlineImages:
    store: ImageStore
    _encoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_ENCODING))

    async def available(self, job: Job) -> list[Image]:
        """The images whose recorded file exists. Raises StorageUnavailable."""
        return [image for image in job.images if not image.flagged and await image_exists(self.store, job, image)]

    async def required(self, job: Job) -> list[Image]:
        """The same. Raises ImageNotFound if there is none."""
        images = await self.available(job)
        if not images:
            raise ImageNotFound(CANCELLED if job.state is State.CANCELLED else "")
        return images

    def response(
        self,
        job: Job,
        render: Callable[[Mapping[int, str]], str],
        images: Sequence[Image],
        headers: Mapping[str, str],
        status: int = 200,
    ) -> FileStream:
        """JSON with the bytes of these images in it. `render` takes, by index, what stands for them in the text."""
        texts = _split(render, images)
        length = sum(map(len, texts)) + sum(-(-(image.bytes or 0) // 3) * 4 for image in images)
        headers = {**headers, "Content-Length": str(length)}
        return FileStream(self._body(job, texts, images), status, headers, "application/json")

    def chunks(
        self, job: Job, render: Callable[[Mapping[int, str]], str], images: Sequence[Image]
    ) -> AsyncIterator[bytes]:
        """The same text, for an answer that is sent in parts."""
        return self._body(job, _split(render, images), images)

    async def texts(self, images: Sequence[tuple[Job, Image]], before: str, after: str) -> AsyncIterator[bytes]:
        """JSON texts with the bytes of images of several jobs, separated by commas."""
        for number, (job, image) in enumerate(images):
            yield (", " if number else before).encode()
            async for chunk in self.chunks(job, lambda inline: json.dumps(*inline.values()), [image]):
                yield chunk
        yield after.encode()

    async def _body(self, job: Job, texts: Sequence[bytes], images: Sequence[Image]) -> AsyncIterator[bytes]:
        for text, image in zip(texts, images, strict=False):
            yield text
            async for chunk in self._encode(image_name(job, image.index), image.bytes or 0):
                yield chunk
        yield texts[-1]

    async def _encode(self, name: str, size: int) -> AsyncIterator[bytes]:
        start, pending = 0, b""
        version: object = None
        while start < size:
            async with self._encoding:
                data, version = await self._read_chunk(name, start, size, version)
                start, data = start + len(data), pending + data
                whole = len(data) if start == size else len(data) // 3 * 3
                pending = data[whole:]
                encoded = await asyncio.to_thread(base64.b64encode, memoryview(data)[:whole])
            yield encoded

    async def _read_chunk(self, name: str, start: int, size: int, version: object) -> tuple[bytes, object]:
        """The next bytes of the file, and its version. Raises StorageUnavailable."""
        chunk = await self.store.storage.read_chunk(name, start, min(size, start + CHUNK_BYTES), version)
        # If the file is gone by now the answer is cut off, which its length tells the client.
        if chunk is None or not chunk.data:
            raise StorageUnavailable
        return chunk.data, chunk.version


def _split(render: Callable[[Mapping[int, str]], str], images: Sequence[Image]) -> list[bytes]:
    """The text before, between and after the images."""
    # Random, so that no text of the job contains it.
    mark = secrets.token_hex(16)
    marks = {image.index: f"{mark}-{image.index}" for image in images}
    rest, texts = render(marks), []
    for image in images:
        before, _, rest = rest.partition(marks[image.index])
        texts.append(before.encode())
    return [*texts, rest.encode()]
