"""Images that a request names by their address: fetched through the outbound client, on threads of their own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

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

#: For all images of one request, whose caller waits.
FETCH_SECONDS = 10.0
#: So many at a time. More wait for a thread, but not longer than this.
MAX_THREADS, MAX_QUEUED_SECONDS = 16, 10.0
REDIRECTS = 2


class ImageFetcher:
    def __init__(self, outbound: OutboundClient) -> None:
        self._outbound = outbound
        self._threads = ThreadPoolExecutor(MAX_THREADS, "fetch")

    async def fetch(self, url: str, pointer: str, seconds: float, max_bytes: int, sink: Sink) -> None:
        """Raises InvalidRequest, InvalidImage, QueueFull and what `sink` raises, which is called on another thread."""
        work = asyncio.get_running_loop().run_in_executor(
            self._threads, self._fetch, url, pointer, seconds, max_bytes, sink
        )
        try:
            async with asyncio.timeout(max(0.0, seconds) + MAX_QUEUED_SECONDS):
                await work
        except TimeoutError:
            raise QueueFull("As many images are being fetched as this service fetches at a time; try again.") from None

    def _fetch(self, url: str, pointer: str, seconds: float, max_bytes: int, sink: Sink) -> None:
        try:
            answer = self._outbound.send(
                "GET", url, timeout_seconds=seconds, max_bytes=max_bytes, max_redirects=REDIRECTS, sink=sink
            )
        except ForbiddenUrl as error:
            raise InvalidRequest(errors=[FieldError(pointer, f"is not fetched. {error.detail}")]) from None
        except ResponseTooLarge:
            raise InvalidImage(f"{pointer}: an image may take at most {max_bytes} bytes.") from None
        except OutboundError as error:
            raise InvalidImage(f"{pointer}: the image could not be fetched. {error.detail}") from None
        if answer.status != 200:
            raise InvalidImage(f"{pointer}: the image could not be fetched. Its server answers HTTP {answer.status}.")
