"""How large a request body may be, whatever it holds."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import early_error_response
from shared.errors import PayloadTooLarge, RequestError, UnsupportedMediaType

#: The largest request without images takes 4000 characters twice, 2 KB of metadata and a few numbers.
MAX_JSON_BYTES = 128 * 1024


class BodyLimit:
    """Turns away bodies that are too large or compressed, before they are read where that can be told."""

    def __init__(self, app: ASGIApp, larger: Mapping[str, int]) -> None:
        """`larger` has the limits of paths that take more than MAX_JSON_BYTES."""
        self._app = app
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, max_bytes = Headers(scope=scope), self._larger.get(scope["path"], MAX_JSON_BYTES)
        refused = _refused(headers, max_bytes)
        if refused is not None:
            await early_error_response(refused, headers)(scope, receive, send)
            return
        if "transfer-encoding" in headers:
            receive, send = _bounded(receive, send, max_bytes)
        await self._app(scope, receive, send)


def _refused(headers: Headers, max_bytes: int) -> RequestError | None:
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        return UnsupportedMediaType("The body is compressed (Content-Encoding); send it as it is.")
    # The parser of HTTP has seen to it that it is a number.
    if int(headers.get("content-length", "0")) > max_bytes:
        return PayloadTooLarge(f"The body may take at most {max_bytes} bytes.")
    return None


def _bounded(receive: Receive, send: Send, max_bytes: int) -> tuple[Receive, Send]:
    """For a body that comes in chunks, and does not tell how long it will be."""
    left, complete = max_bytes, False

    async def bounded() -> Message:
        nonlocal left, complete
        message = await receive()
        left -= len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if left < 0:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        return message

    async def closing(message: Message) -> None:
        # What nobody has read may go on for ever.
        if message["type"] == "http.response.start" and not complete:
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await send(message)

    return bounded, closing
