"""Limits the event streams and the waiting calls of each client: each takes a socket and memory of this process."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from typing import Annotated

from fastapi import Depends, Request

from api.edge.authentication import CallerDep
from shared.errors import RateLimited

RETRY_SECONDS = 5


class StreamLimit:
    def __init__(self, max_streams: int) -> None:
        self._max_streams = max_streams
        self._open: Counter[str] = Counter()

    @property
    def open_streams(self) -> int:
        """Of all clients together."""
        return self._open.total()

    @contextmanager
    def slot(self, client_id: str) -> Iterator[None]:
        """Raises RateLimited."""
        if self._open[client_id] >= self._max_streams:
            raise RateLimited("Too many open event streams or waiting calls; end one first.", RETRY_SECONDS)
        self._open[client_id] += 1
        try:
            yield
        finally:
            self._open[client_id] -= 1
            if not self._open[client_id]:
                del self._open[client_id]

    def waiting_slot(self, client_id: str) -> AbstractContextManager[None]:
        """For a call that waits for a job which it has not created: the limit of jobs does not bound these.

        Apart from event streams, so that neither keeps out the other. Raises RateLimited.
        """
        return self.slot(f"{client_id} waits")


async def _stream_slot(http: Request, caller: CallerDep) -> AsyncIterator[None]:
    """Occupied until the stream ends."""
    with http.app.state.services.stream_limit.slot(caller.client_id):
        yield


async def _until_answered() -> AsyncIterator[AsyncExitStack]:
    """Closed once the answer is sent, however that ends."""
    async with AsyncExitStack() as exits:
        yield exits


#: For routes that always answer with a stream.
StreamSlot = Depends(_stream_slot)
#: For routes that take a slot, and more, only for some answers.
ExitsDep = Annotated[AsyncExitStack, Depends(_until_answered)]
