"""How long a body may take to come."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: A body that comes faster than this, in bytes a second, may take as long as it is long.
SLOWEST = 16 * 1024


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class BodyTimeout:
    """Whoever sends a body too slowly is answered 408, wherever it is being read."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _has_body(Headers(scope=scope)):
            receive = self._limited(receive)
        await self._app(scope, receive, send)

    def _limited(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        loop = asyncio.get_running_loop()
        deadline, complete = loop.time() + self._seconds, False

        async def limited() -> Message:
            nonlocal deadline, complete
            if complete:
                # What comes now is the end of the connection, however late.
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}) from None
            deadline += len(message.get("body", b"")) / SLOWEST
            complete = not message.get("more_body", False)
            return message

        return limited
