"""Reads JSON bodies, and accepts only those that every JSON reader understands the same way."""

import json
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from api.edge.body_limit import MAX_JSON_BYTES
from shared.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType

#: Limit of commas and opening brackets, as a bound of the memory: a value of a few bytes takes a hundred once parsed.
MAX_VALUES = 16 * 1024


def is_small(http: Request) -> bool:
    """Whether the declared length is within that of a request without images."""
    headers = http.headers
    return "transfer-encoding" not in headers and int(headers.get("content-length", "0")) <= MAX_JSON_BYTES


def media_type(http: Request) -> str:
    return http.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_json(http: Request) -> None:
    """For protocols whose clients may leave the content type out. Raises UnsupportedMediaType.

    Any web page may post a form or plain text to any site.
    """
    if media_type(http) not in ("", "application/json"):
        raise UnsupportedMediaType


async def body_chunks(http: Request) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises InvalidRequest if the client disconnects before its end."""
    try:
        async for chunk in http.stream():
            yield chunk
    except ClientDisconnect:
        raise InvalidRequest("The request body is incomplete.") from None


async def json_chunks(http: Request) -> AsyncIterator[bytes]:
    """The same, and raises PayloadTooLarge as soon as the JSON has too many values."""
    values = 0
    async for chunk in body_chunks(http):
        values += count_values(chunk)
        if values > MAX_VALUES:
            raise too_many_values()
        yield chunk


async def read_json(http: Request) -> Any:
    """A body without images. Raises what `json_chunks` and `parse_body` raise."""
    return parse_body(b"".join([chunk async for chunk in json_chunks(http)]))


def count_values(chunk: bytes) -> int:
    return sum(map(chunk.count, (b",", b"[", b"{")))


def too_many_values() -> PayloadTooLarge:
    return PayloadTooLarge("The JSON has more values than any request.")


def parse_body(body: bytes, *, is_original: bool = True) -> Any:
    """Raises RequestValidationError for invalid JSON, and InvalidRequest as `parse_json` does.

    `is_original`: as the caller sent it, so that the error can tell the line and the column.
    """
    try:
        return parse_json(body)
    except ValueError as error:
        if not body.strip():
            raise InvalidRequest("The body is empty; send a JSON object.") from None
        if _is_utf8(body):
            # The parser's message names what it expected and quotes nothing.
            reason = str(error) if is_original else ""
            raise RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": reason}]) from None
        # What shells and editors of Windows write.
        raise InvalidRequest("The body must be text in UTF-8, without a byte order mark.") from None


def _is_utf8(body: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        body.decode()
        return not body.startswith(BOM_UTF8)
    return False


def parse_json(text: bytes) -> Any:
    """Raises ValueError for invalid JSON, and for NaN, lone surrogates and deep nesting, which json.loads allows.

    Raises InvalidRequest for duplicate keys, of which some readers take the first and some the last.
    """
    if _has_duplicate_keys(text):
        raise InvalidRequest("Duplicate key in a JSON object.")
    return from_json(text, allow_inf_nan=False)


class _DuplicateKeyError(Exception):
    pass


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise _DuplicateKeyError


_DECODER = json.JSONDecoder(object_pairs_hook=_refuse_duplicate_keys)


def _has_duplicate_keys(text: bytes) -> bool:
    # from_json refuses whatever this decoder cannot read.
    with suppress(ValueError, RecursionError):
        try:
            _DECODER.decode(text.decode(json.detect_encoding(text), "surrogatepass"))
        except _DuplicateKeyError:
            return True
    return False
