"""How request bodies are read: bounded, and JSON that means one thing to every reader."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from api.problems import problem_response
from shared.errors import InvalidRequest, LengthRequired, PayloadTooLarge

#: The largest request without pictures takes 4000 characters twice, 2 KB of metadata and a few numbers.
MAX_JSON_BYTES = 128 * 1024
#: Commas and opening brackets, of which texts of that size could be full. Pictures are long, but have none.
MOST_VALUES = 16 * 1024


class BodyLimit:
    """Turns away bodies that are too large, or of a size not told, before they are read."""

    def __init__(self, app: ASGIApp, larger: Mapping[str, int]) -> None:
        """`larger` has the limits of paths that take more than MAX_JSON_BYTES."""
        self._app = app
        self._larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = None
        if scope["type"] == "http":
            refused = self._refused(Headers(scope=scope), self._larger.get(scope["path"], MAX_JSON_BYTES))
        if refused is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(refused.code, refused.detail, headers={"Connection": "close"})(scope, receive, send)

    def _refused(self, headers: Headers, max_bytes: int) -> LengthRequired | PayloadTooLarge | None:
        if "transfer-encoding" in headers:
            return LengthRequired()
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return LengthRequired()
        if len(length) > 15 or int(length) > max_bytes:
            return PayloadTooLarge(f"The body may take at most {max_bytes} bytes.")
        return None


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
