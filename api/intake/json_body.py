"""JSON bodies, read so that they mean one thing to every reader."""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from api.edge.body_limit import MAX_JSON_BYTES
from shared.errors import InvalidRequest, PayloadTooLarge

#: Commas and opening brackets, of which texts of that size could be full. Images are long, but have none.
MAX_VALUES = 16 * 1024


def is_small(http: Request) -> bool:
    """Whether the body says that it takes no more than a request without images."""
    headers = http.headers
    return "transfer-encoding" not in headers and int(headers.get("content-length", "0")) <= MAX_JSON_BYTES


def media_type(http: Request) -> str:
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_chunks(http: Request) -> AsyncIterator[bytes]:
    """The body in pieces, as they come. Raises InvalidRequest where the caller leaves in the middle of it."""
    try:
        async for piece in http.stream():
            yield piece
    except ClientDisconnect:
        raise InvalidRequest("The body ended before its end.") from None


async def json_chunks(http: Request) -> AsyncIterator[bytes]:
    """As `body_chunks`. Raises PayloadTooLarge as soon as there are more values in it than a request has.

    One of a few bytes takes a hundred once it is read.
    """
    values = 0
    async for piece in body_chunks(http):
        values += sum(map(piece.count, (b",", b"[", b"{")))
        if values > MAX_VALUES:
            raise PayloadTooLarge("The JSON holds more values than a request has.")
        yield piece


def parse_body(body: bytes) -> Any:
    """Raises RequestValidationError for what is no JSON, and otherwise as `parse_json` does."""
    try:
        return parse_json(body)
    except ValueError:
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": ""}]) from None


def parse_json(text: bytes) -> Any:
    """Raises ValueError for what is no JSON, and for the NaN, lone surrogates and deep nesting of the standard library.

    Raises InvalidRequest for a name that stands twice in one object: of two values readers take the first or the last.
    """
    if _has_duplicate_keys(text):
        raise InvalidRequest("A name stands twice in one object of the JSON.")
    return from_json(text, allow_inf_nan=False)


def _has_duplicate_keys(text: bytes) -> bool:
    twice = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal twice
        twice = twice or len(dict(pairs)) < len(pairs)

    # What it cannot read is no JSON for the other reader either.
    with suppress(ValueError, RecursionError):
        json.loads(text, object_pairs_hook=look)
    return twice
