"""Limits the size of request bodies."""

from collections.abc import Collection
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import early_error_response
from shared.errors import PayloadTooLarge, RequestError, UnsupportedMediaType

#: The largest request without images has 4000 characters twice, 2 KB of metadata and a few numbers.
MAX_JSON_BYTES = 128 * 1024


class BodyLimit:
    """Refuses compressed bodies and bodies that are too large, before reading them where their size is announced."""

    def __init__(self, app: ASGIApp, max_bytes: int, paths: Collection[str], prefixes: tuple[str, ...]) -> None:
        """`max_bytes` is for these paths, and for all that begin with these prefixes; others take MAX_JSON_BYTES."""
        self._app = app
        self._max_bytes = max_bytes
        self._paths = paths
        self._prefixes = prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        max_bytes = self._max_bytes if path in self._paths or path.startswith(self._prefixes) else MAX_JSON_BYTES
        error = _check(headers, max_bytes)
        if error is not None:
            await early_error_response(error, headers)(scope, receive, send)
            return
        if "transfer-encoding" in headers:
            receive, send = _limit_chunks(receive, send, max_bytes)
        await self._app(scope, receive, send)


def _check(headers: Headers, max_bytes: int) -> RequestError | None:
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        return UnsupportedMediaType("The body is compressed (Content-Encoding); send it uncompressed.")
    # The HTTP parser has checked that it is a number.
    if int(headers.get("content-length", "0")) > max_bytes:
        return PayloadTooLarge(f"The body may have at most {max_bytes} bytes.")
    return None


def _limit_chunks(receive: Receive, send: Send, max_bytes: int) -> tuple[Receive, Send]:
    """Count the bytes of a chunked body, whose size is not announced."""
    remaining, complete = max_bytes, False

    async def receive_limited() -> Message:
        nonlocal remaining, complete
        message = await receive()
        remaining -= len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if remaining < 0:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    async def send_and_close(message: Message) -> None:
        # The unread rest of a body may be endless.
        if message["type"] == "http.response.start" and not complete:
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return receive_limited, send_and_close
