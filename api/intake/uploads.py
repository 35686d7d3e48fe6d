"""Stores the images of a request until its job is accepted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.edge.authentication import Caller
from api.field_errors import invalid_field
from api.intake.disk_space import DiskSpace
from api.intake.images.fetching import ImageFetcher
from api.intake.images.job_images import JobImages, is_link
from shared.errors import FieldError, InvalidImage, InvalidRequest, PayloadTooLarge
from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Size
from shared.settings.api import ApiSettings
from shared.storage.image_headers import ImageHeader
from shared.storage.inputs import InputStore
from shared.storage.object_store import StagingArea, Upload


class UploadStore:
    """Writes uploads to storage on threads, chunk by chunk, so that memory does not grow with them."""

    def __init__(
        self,
        settings: ApiSettings,
        inputs: InputStore,
        disk_space: DiskSpace,
        fetcher: ImageFetcher,
        job_images: JobImages,
    ) -> None:
        self.settings = settings
        self._inputs = inputs
        self.disk_space = disk_space
        self.fetcher = fetcher
        self.job_images = job_images

    @asynccontextmanager
    async def open_request(self) -> AsyncIterator["RequestUploads"]:
        """The uploads of one request, removed at the end unless a job has them by then."""
        uploads = RequestUploads(self, self._inputs.create_staging_area())
        try:
            yield uploads
        finally:
            await uploads.discard()

    async def discard(self, job: Job) -> None:
        """Remove the images of a job that was not accepted or will not run."""
        if job.request.image:
            await asyncio.to_thread(self._inputs.discard, job)


class RequestUploads:
    """The images of one request. Every method may raise StorageFull and StorageUnavailable."""

    def __init__(self, upload_store: UploadStore, staged: StagingArea) -> None:
        self._upload_store = upload_store
        self._staged = staged
        self._files = list[Upload]()
        self._headers: dict[str, ImageHeader] = {}
        self._pixels = 0

    def __contains__(self, reference: str) -> bool:
        """Whether it is the reference of an image of this request."""
        return reference in self._headers

    @property
    def max_bytes(self) -> int:
        """Limit of one image."""
        return self._upload_store.settings.max_image_bytes

    async def store(self, chunks: AsyncIterator[bytes], pointer: str) -> str:
        """Store an image and return its reference. Raises PayloadTooLarge and InvalidImage."""
        upload = await self.start()
        async for chunk in chunks:
            await upload.write(chunk)
            upload.check_size(pointer)
        return await self._close(upload, pointer)

    async def start(self) -> "UploadWriter":
        """Open a file for an image that is about to arrive. It is removed with the request unless it is finished."""
        await self._upload_store.disk_space.require_space()
        file = await asyncio.to_thread(self._staged.start_upload)
        self._files.append(file)
        return UploadWriter(self, file)

    async def fetch(self, url: str, pointer: str, seconds: float, caller: Caller) -> str:
        """Fetch and store an image, or copy it if this service has it, and return its reference.

        Raises as `ImageFetcher.fetch` and `store` do.
        """
        store, fetcher = self._upload_store, self._upload_store.fetcher
        if is_link(url):
            # A short request may copy many large files.
            async with fetcher.turn(seconds, caller.client_id):
                if (chunks := await store.job_images.read_link(url, caller)) is not None:
                    return await self.store(chunks, pointer)
        upload = await self.start()
        try:
            await fetcher.fetch(url, pointer, seconds, self.max_bytes, upload.file.write, caller.client_id)
        except InvalidRequest:
            if is_link(url):
                raise invalid_field(
                    pointer, "is a link to an image that is gone, or that belongs to another key"
                ) from None
            raise
        return await self._close(upload, pointer)

    async def _close(self, upload: "UploadWriter", pointer: str) -> str:
        """Finish an image that nobody reads here: many images of a request take one open file."""
        reference = await upload.finish(pointer)
        upload.file.close()
        return reference

    async def finish(self, file: Upload, pointer: str) -> str:
        """Finish an image and return its reference. Raises InvalidImage."""
        try:
            stored = await asyncio.to_thread(file.finish, self._upload_store.settings.max_image_pixels)
        except InvalidImage as error:
            raise InvalidImage(errors=[FieldError(pointer, error.detail)]) from None
        self._headers[stored.reference] = stored.header
        self._pixels += stored.header.stored_width * stored.header.stored_height
        if self._pixels > (limit := self._upload_store.settings.max_request_pixels):
            total = FieldError(pointer, f"The images of a request may have at most {limit} pixels in total.")
            raise InvalidImage(errors=[total])
        return stored.reference

    def first_image_size(self, request: GenerationRequest) -> Size | None:
        """The size of the request's first image, as it is displayed."""
        return self._headers[request.image[0]].size if request.image else None

    def image_format(self, reference: str) -> str:
        """PNG, JPEG or WEBP."""
        return self._headers[reference].format

    async def move_to_job(self, job: Job) -> None:
        """Move the images to the folder of their job."""
        self._close_files()
        if self._staged.holds_files:
            await asyncio.to_thread(self._staged.commit, job.id)

    async def discard(self) -> None:
        """Remove the images, unless a job has them."""
        self._close_files()
        if self._staged.holds_files:
            await asyncio.to_thread(self._staged.discard)

    def _close_files(self) -> None:
        while self._files:
            self._files.pop().close()


class UploadWriter:
    """Writes an image to its file, up to the size limit."""

    def __init__(self, uploads: RequestUploads, file: Upload) -> None:
        self.uploads = uploads
        self.file = file
        self.reference = ""
        """Of the finished image."""
        self._bytes_left = uploads.max_bytes

    async def write(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if self._bytes_left >= 0:
            await asyncio.to_thread(self.file.write, data)

    def check_size(self, pointer: str) -> None:
        """Raises PayloadTooLarge."""
        if self._bytes_left < 0:
            raise image_too_large(pointer, self.uploads.max_bytes)

    async def finish(self, pointer: str) -> str:
        """Finish the image and return its reference. Raises PayloadTooLarge and InvalidImage."""
        self.check_size(pointer)
        self.reference = await self.uploads.finish(self.file, pointer)
        return self.reference


def image_too_large(pointer: str, max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(errors=[FieldError(pointer, f"may have at most {max_bytes} bytes")])
