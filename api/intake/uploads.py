"""Images on their way in: from the moment that they come to the one in which a job has them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from api.intake.disk_space import DiskSpace
from api.intake.fetching import ImageFetcher
from shared.errors import InvalidImage, PayloadTooLarge
from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Size
from shared.storage.image_headers import ImageHeader
from shared.storage.inputs import InputStore
from shared.storage.object_store import StagingArea, Upload


class UploadStore:
    """Where uploads begin. Files are written on threads, in chunks as they come, so that memory does not grow."""

    def __init__(
        self,
        store: InputStore,
        disk: DiskSpace,
        fetcher: ImageFetcher,
        max_bytes: int,
        max_pixels: int,
        max_request_pixels: int,
    ) -> None:
        """`max_bytes` and `max_pixels` are those of one image."""
        self._store = store
        self._disk = disk
        self.fetcher = fetcher
        self.max_bytes = max_bytes
        self.max_pixels = max_pixels
        self.max_request_pixels = max_request_pixels

    @asynccontextmanager
    async def open_request(self) -> AsyncIterator["RequestUploads"]:
        """The uploads of one request. What no job has at the end is removed."""
        staged = self._store.create_staging_area()
        try:
            yield RequestUploads(self, staged)
        finally:
            if staged.holds_files:
                await asyncio.to_thread(staged.discard)

    @asynccontextmanager
    async def new_file(self, staged: StagingArea) -> AsyncIterator[Upload]:
        """A file that goes at the end, unless it became an image. Raises StorageFull and StorageUnavailable."""
        await self._disk.require_space()
        with await asyncio.to_thread(staged.start_upload) as upload:
            yield upload

    async def discard(self, job: Job) -> None:
        """Remove what came with a job that was not accepted, or will not run."""
        if job.request.image:
            await asyncio.to_thread(self._store.discard, job)


class RequestUploads:
    """What one request brings. Every method may raise StorageFull and StorageUnavailable."""

    def __init__(self, store: UploadStore, staged: StagingArea) -> None:
        self._store = store
        self._staged = staged
        self._headers: dict[str, ImageHeader] = {}
        self._pixels = 0

    @property
    def max_bytes(self) -> int:
        """Of one image."""
        return self._store.max_bytes

    async def store(self, chunks: AsyncIterator[bytes], pointer: str) -> str:
        """Store an image; the reference to it. Raises PayloadTooLarge, and InvalidImage for what is none."""
        async with AsyncExitStack() as exits:
            upload = await self.start(exits)
            async for chunk in chunks:
                await upload.write(chunk)
                upload.require_size(pointer)
            return await self.finish(upload, pointer)

    async def start(self, exits: AsyncExitStack) -> "UploadWriter":
        """An image that comes from now on. It goes with `exits`, unless it is finished."""
        return UploadWriter(await exits.enter_async_context(self._store.new_file(self._staged)), self.max_bytes)

    async def finish(self, upload: "UploadWriter", pointer: str) -> str:
        """The reference to an image that has come. Raises as `store` does."""
        upload.require_size(pointer)
        return await self._finish(upload.file, pointer)

    async def fetch(self, url: str, pointer: str, seconds: float) -> str:
        """Store an image that lies elsewhere; the reference to it. Raises as `ImageFetcher.fetch` does."""
        async with self._store.new_file(self._staged) as file:
            await self._store.fetcher.fetch(url, pointer, seconds, self.max_bytes, file.write)
            return await self._finish(file, pointer)

    async def _finish(self, file: Upload, pointer: str) -> str:
        try:
            stored = await asyncio.to_thread(file.finish, self._store.max_pixels)
        except InvalidImage as error:
            raise InvalidImage(f"{pointer}: {error.detail}") from None
        self._headers[stored.reference] = stored.header
        self._pixels += stored.header.stored_width * stored.header.stored_height
        if self._pixels > self._store.max_request_pixels:
            most = self._store.max_request_pixels
            raise InvalidImage(f"{pointer}: the images of a request may have at most {most} pixels together.")
        return stored.reference

    def first_image_size(self, request: GenerationRequest) -> Size | None:
        """Of the first image in the request, as it is shown."""
        return self._headers[request.image[0]].size if request.image else None

    async def move_to_job(self, job: Job) -> None:
        """From here on they are the job's."""
        if self._staged.holds_files:
            await asyncio.to_thread(self._staged.commit, job.id)


class UploadWriter:
    """An image on its way in. Of one that is too large nothing more is written."""

    def __init__(self, file: Upload, max_bytes: int) -> None:
        self.file = file
        self._left = max_bytes
        self._max_bytes = max_bytes

    async def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            await asyncio.to_thread(self.file.write, data)

    def require_size(self, pointer: str) -> None:
        """Raises PayloadTooLarge."""
        if self._left < 0:
            raise PayloadTooLarge(f"{pointer}: an image may take at most {self._max_bytes} bytes.")
