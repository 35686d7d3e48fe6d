"""Fetches the images that a request links to."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from shared.errors import (
    FieldError,
    ForbiddenUrl,
    InvalidImage,
    InvalidRequest,
    OutboundError,
    QueueFull,
    ResponseTooLarge,
)
from shared.net.outbound import OutboundClient, Sink

#: Timeout for all images of one request, whose caller waits.
FETCH_SECONDS = 10.0
MAX_THREADS = 16
#: Threads that one caller's slow servers may occupy.
MAX_THREADS_PER_CALLER = MAX_THREADS // 2
#: How long a fetch waits for a free thread.
MAX_QUEUED_SECONDS = 10.0
MAX_REDIRECTS = 2


class ImageFetcher:
    """Has threads of its own, so that slow servers do not delay other work."""

    def __init__(self, outbound: OutboundClient) -> None:
        self._outbound = outbound
        self._threads = ThreadPoolExecutor(MAX_THREADS, "fetch")
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, seconds: float, client_id: str) -> AsyncIterator[None]:
        """The caller's turn, to last for so long. Raises QueueFull if it comes or ends too late."""
        share = self._shares.setdefault(client_id, asyncio.Semaphore(MAX_THREADS_PER_CALLER))
        try:
            async with asyncio.timeout(max(0.0, seconds) + MAX_QUEUED_SECONDS), share:
                yield
        except TimeoutError:
            raise QueueFull("This service is fetching too many images; try again later.") from None

    async def fetch(
        self, url: str, pointer: str, seconds: float, max_bytes: int, sink: Sink, client_id: str = ""
    ) -> None:
        """Raises InvalidRequest, InvalidImage, QueueFull, and whatever `sink` raises, which runs on another thread."""
        async with self.turn(seconds, client_id):
            await asyncio.get_running_loop().run_in_executor(
                self._threads, self._fetch, url, pointer, seconds, max_bytes, sink
            )

    def _fetch(self, url: str, pointer: str, seconds: float, max_bytes: int, sink: Sink) -> None:
        try:
            response = self._outbound.send(
                "GET", url, timeout_seconds=seconds, max_bytes=max_bytes, max_redirects=MAX_REDIRECTS, sink=sink
            )
        except ForbiddenUrl as error:
            raise InvalidRequest(errors=[FieldError(pointer, f"is not allowed. {error.detail}")]) from None
        except ResponseTooLarge:
            raise InvalidImage(errors=[FieldError(pointer, f"may have at most {max_bytes} bytes")]) from None
        except OutboundError as error:
            raise _not_fetched(pointer, error.detail) from None
        if response.status != 200:
            raise _not_fetched(pointer, f"The server returned HTTP {response.status}.")


def _not_fetched(pointer: str, reason: str) -> InvalidImage:
    return InvalidImage(errors=[FieldError(pointer, f"The image could not be fetched. {reason}")])
