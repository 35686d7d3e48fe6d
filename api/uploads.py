"""Pictures on their way in: from the moment that they come to the one in which a job has them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from api.disk import DiskWatch
from api.fetching import Fetcher
from shared.capabilities import Size
from shared.errors import InvalidImage, PayloadTooLarge
from shared.headers import Header
from shared.inputs import InputStore
from shared.schemas import GenerationRequest, Job
from shared.storage.home import Arriving, Staged

T = TypeVar("T")


class Intake:
    """Where uploads begin. Files are written on threads, in pieces as they come, so that memory does not grow."""

    def __init__(
        self,
        store: InputStore,
        disk: DiskWatch,
        fetcher: Fetcher,
        max_bytes: int,
        max_pixels: int,
        max_request_pixels: int,
    ) -> None:
        """`max_bytes` and `max_pixels` are those of one picture."""
        self._store = store
        self._disk = disk
        self.fetcher = fetcher
        self.max_bytes = max_bytes
        self.max_pixels = max_pixels
        self.max_request_pixels = max_request_pixels
        #: Pictures in JSON have to be in memory, if only for a moment. One request at a time has that moment.
        self.turn = asyncio.Semaphore(1)
        #: Malloc keeps what a thread has freed for that thread: five at once with 27 MB each made the process grow by
        #: 210 MB on the usual threads, and by 56 MB on this one.
        self.aside = ThreadPoolExecutor(1, "json")

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Uploads"]:
        """The uploads of one request. What no job has at the end is removed."""
        staged = self._store.stage()
        try:
            yield Uploads(self, staged)
        finally:
            if staged.holds_files:
                await asyncio.to_thread(staged.drop)

    @asynccontextmanager
    async def file(self, staged: Staged) -> AsyncIterator[Arriving]:
        """A file that goes at the end, unless it became a picture. Raises StorageFull and StorageUnavailable."""
        await self._disk.require_room()
        with await asyncio.to_thread(staged.receive) as arriving:
            yield arriving

    async def discard(self, job: Job) -> None:
        """Remove what came with a job that was not accepted, or will not run."""
        if job.request.image:
            await asyncio.to_thread(self._store.discard, job)


class Uploads:
    """What one request brings. Every method may raise StorageFull and StorageUnavailable."""

    def __init__(self, intake: Intake, staged: Staged) -> None:
        self._intake = intake
        self._staged = staged
        self._headers: dict[str, Header] = {}
        self._pixels = 0

    @property
    def max_bytes(self) -> int:
        """Of one picture."""
        return self._intake.max_bytes

    async def aside(self, work: Callable[[], T]) -> T:
        """What `work` returns, which takes much memory for a moment."""
        return await asyncio.get_running_loop().run_in_executor(self._intake.aside, work)

    async def take(self, pieces: AsyncIterator[bytes], pointer: str) -> str:
        """Store a picture; the reference to it. Raises PayloadTooLarge, and InvalidImage for what is none."""
        async with self._intake.file(self._staged) as file:
            async for piece in pieces:
                if file.size + len(piece) > self.max_bytes:
                    raise PayloadTooLarge(f"{pointer}: a picture may take at most {self.max_bytes} bytes.")
                await asyncio.to_thread(file.write, piece)
            return await self._finish(file, pointer)

    async def fetch(self, url: str, pointer: str, seconds: float) -> str:
        """Store a picture that lies elsewhere; the reference to it. Raises as `Fetcher.fetch` does."""
        async with self._intake.file(self._staged) as file:
            await self._intake.fetcher.fetch(url, pointer, seconds, self.max_bytes, file.write)
            return await self._finish(file, pointer)

    async def _finish(self, file: Arriving, pointer: str) -> str:
        try:
            arrived = await asyncio.to_thread(file.finish, self._intake.max_pixels)
        except InvalidImage as error:
            raise InvalidImage(f"{pointer}: {error.detail}") from None
        self._headers[arrived.reference] = arrived.header
        self._pixels += arrived.header.stored_width * arrived.header.stored_height
        if self._pixels > self._intake.max_request_pixels:
            most = self._intake.max_request_pixels
            raise InvalidImage(f"{pointer}: the pictures of a request may have at most {most} pixels together.")
        return arrived.reference

    @asynccontextmanager
    async def spooled(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Arriving]:
        """What is too large to be in memory while it comes, complete; with the turn to have it there now."""
        async with self._intake.file(self._staged) as file:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
            async with self._intake.turn:
                yield file

    def size(self, request: GenerationRequest) -> Size | None:
        """Of the first picture in the request, as it is shown."""
        return self._headers[request.image[0]].size if request.image else None

    async def keep(self, job: Job) -> None:
        """From here on they are the job's."""
        if self._staged.holds_files:
            await asyncio.to_thread(self._staged.keep, job.id)
