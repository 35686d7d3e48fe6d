"""Answers that carry images as base64 in their JSON: read, encoded and sent piece by piece.

One piece of each answer is in memory at a time, and nothing is read while a slow client takes it: what an answer costs
does not grow with its images, and what all cost together is bounded by the connections that there may be.
"""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from fastapi.responses import StreamingResponse

from api.delivery.image_files import image_exists
from shared.errors import StorageUnavailable
from shared.jobs.job import Image, Job
from shared.jobs.views import JobView
from shared.storage.images import ImageStore, image_name

#: 3 bytes are 4 characters.
CHUNK_BYTES = 384 * 1024
#: So many pieces are encoded at a time: other work wants threads too.
ENCODED_AT_ONCE = 2


@dataclass(frozen=True)
class InlineImages:
    store: ImageStore
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ENCODED_AT_ONCE))

    async def available(self, job: Job) -> list[Image]:
        """The images whose file is the very one that was recorded. Raises StorageUnavailable."""
        return [image for image in job.images if not image.flagged and await self._is_present(job, image)]

    async def _is_present(self, job: Job, image: Image) -> bool:
        name = image_name(job, image.index)
        return await image_exists(self.store.storage, name, image)

    def response(
        self, job: Job, view: JobView, images: Sequence[Image], headers: Mapping[str, str]
    ) -> StreamingResponse:
        """The view with the bytes of these images in it."""
        # Nobody can have put it into the texts of the job.
        mark = secrets.token_hex(16)
        marks = {image.index: f"{mark}-{image.index}" for image in images}
        marked = [image.model_copy(update={"b64_json": marks.get(image.index)}) for image in view.images]
        rest, texts = view.model_copy(update={"images": marked}).model_dump_json(), []
        for image in images:
            before, _, rest = rest.partition(marks[image.index])
            texts.append(before.encode())
        texts.append(rest.encode())
        length = sum(map(len, texts)) + sum(-(-(image.bytes or 0) // 3) * 4 for image in images)
        told = {**headers, "Content-Length": str(length)}
        return StreamingResponse(self._body(job, texts, images), media_type="application/json", headers=told)

    async def _body(self, job: Job, texts: Sequence[bytes], images: Sequence[Image]) -> AsyncIterator[bytes]:
        for text, image in zip(texts, images, strict=False):
            yield text
            async for piece in self._encoded(image_name(job, image.index), image.bytes or 0):
                yield piece
        yield texts[-1]

    async def _encoded(self, name: str, size: int) -> AsyncIterator[bytes]:
        start, carried = 0, b""
        version: object = None
        while start < size:
            async with self._turn:
                data, version = await self._piece(name, start, size, version)
                start, data = start + len(data), carried + data
                whole = len(data) if start == size else len(data) // 3 * 3
                carried = data[whole:]
                encoded = await asyncio.to_thread(base64.b64encode, memoryview(data)[:whole])
            yield encoded

    async def _piece(self, name: str, start: int, size: int, version: object) -> tuple[bytes, object]:
        """What comes next, and the version of the file that it is of. Raises StorageUnavailable."""
        piece = await self.store.storage.read_chunk(name, start, min(size, start + CHUNK_BYTES), version)
        # Gone in the middle: the answer is cut off, and its length tells.
        if piece is None or not piece.data:
            raise StorageUnavailable
        return piece.data, piece.version
