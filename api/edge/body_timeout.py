"""Limits the time that a request body may take to arrive."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes per second. A body that arrives faster may take as long as it needs.
MIN_RATE = 16 * 1024


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


class BodyTimeout:
    """Answers 408 to a body that arrives too slowly, wherever it is read."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _has_body(Headers(scope=scope)):
            receive = self._with_timeout(receive)
        await self._app(scope, receive, send)

    def _with_timeout(self, receive: Receive) -> Callable[[], Awaitable[Message]]:
        loop = asyncio.get_running_loop()
        deadline, complete = loop.time() + self._seconds, False

        async def receive_in_time() -> Message:
            nonlocal deadline, complete
            if complete:
                # The next message is the end of the connection, which may come at any time.
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, headers={"Connection": "close"}) from None
            deadline += len(message.get("body", b"")) / MIN_RATE
            complete = not message.get("more_body", False)
            return message

        return receive_in_time
