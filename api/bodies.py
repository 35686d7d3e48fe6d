"""How request bodies are read: bounded, and JSON that means one thing to every reader."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import turned_away
from shared.errors import InvalidRequest, PayloadTooLarge, RequestError, UnsupportedMediaType

#: The largest request without pictures takes 4000 characters twice, 2 KB of metadata and a few numbers.
MAX_JSON_BYTES = 128 * 1024
#: Commas and opening brackets, of which texts of that size could be full. Pictures are long, but have none.
MOST_VALUES = 16 * 1024


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
            await turned_away(refused, headers)(scope, receive, send)
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


def is_small(http: Request) -> bool:
    """Whether the body says that it takes no more than a request without images."""
    headers = http.headers
    return "transfer-encoding" not in headers and int(headers.get("content-length", "0")) <= MAX_JSON_BYTES


def media_type(http: Request) -> str:
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()


async def received(http: Request) -> AsyncIterator[bytes]:
    """The body in pieces, as they come. Raises InvalidRequest where the caller leaves in the middle of it."""
    try:
        async for piece in http.stream():
            yield piece
    except ClientDisconnect:
        raise InvalidRequest("The body ended before its end.") from None


async def received_json(http: Request) -> AsyncIterator[bytes]:
    """As `received`. Raises PayloadTooLarge as soon as there are more values in it than a request has.

    One of a few bytes takes a hundred once it is read.
    """
    values = 0
    async for piece in received(http):
        values += sum(map(piece.count, (b",", b"[", b"{")))
        if values > MOST_VALUES:
            raise PayloadTooLarge("The JSON holds more values than a request has.")
        yield piece


def parsed(body: bytes) -> Any:
    """Raises RequestValidationError for what is no JSON, and otherwise as `read_json` does."""
    try:
        return read_json(body)
    except ValueError:
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": ""}]) from None


def read_json(text: bytes) -> Any:
    """Raises ValueError for what is no JSON, and for the NaN, lone surrogates and deep nesting of the standard library.

    Raises InvalidRequest for a name that stands twice in one object: of two values readers take the first or the last.
    """
    if _names_twice(text):
        raise InvalidRequest("A name stands twice in one object of the JSON.")
    return from_json(text, allow_inf_nan=False)


def _names_twice(text: bytes) -> bool:
    twice = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len(dict(pairs)) < len(pairs)

    # What it cannot read is no JSON for the other reader either.
    with suppress(ValueError, RecursionError):
        json.loads(text, object_pairs_hook=look)
    return twice
