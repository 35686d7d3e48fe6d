"""How the bytes of an image go out: piece by piece, wherever they lie."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import PurePosixPath

from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from api.edge.authentication import SAFE_METHODS
from shared.errors import ImageNotFound, RangeNotSatisfiable
from shared.jobs.requests import Image
from shared.storage.object_store import Chunk, ObjectStore, stream_chunks

#: What one client may take of the memory; most images are smaller, and so one request.
PIECE_BYTES = 2 * 1024 * 1024
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)
GONE = "The file of this image is gone or damaged."


async def send_image(
    storage: ObjectStore, name: str, image: Image, http: Request, headers: Mapping[str, str]
) -> Response:
    """Raises StorageUnavailable, and ImageNotFound when the file is not the very one that was recorded."""
    if (link := await storage.signed_url(name)) is not None:
        return RedirectResponse(link, headers={**headers, "Cache-Control": "no-store"})
    whole, asked = image.bytes or 0, part(image, http)
    start, end = asked or (0, whole)
    if _is_known(image, http):
        await _first(storage, name, image, start, start + 1)
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=dict(headers))
    about = {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    about["Content-Disposition"] = f'inline; filename="{PurePosixPath(name).name}"'
    status = HTTPStatus.OK
    if asked:
        status, about["Content-Range"] = HTTPStatus.PARTIAL_CONTENT, f"bytes {start}-{end - 1}/{whole}"
    if http.method == "HEAD":
        await _first(storage, name, image, start, start + 1)
        return Response(None, status, {**headers, **about}, image.media_type)
    first = await _first(storage, name, image, start, end)
    sent = stream_chunks(storage, name, first, start, end, PIECE_BYTES)
    return StreamingResponse(sent, status, {**headers, **about}, image.media_type)


async def is_there(storage: ObjectStore, name: str, image: Image) -> bool:
    """Whether the very file that was recorded is. Raises StorageUnavailable."""
    try:
        await _first(storage, name, image, 0, 1)
    except ImageNotFound:
        return False
    return True


async def _first(storage: ObjectStore, name: str, image: Image, start: int, end: int) -> Chunk:
    """Asked for before the answer begins, so that it can still be a problem."""
    first = await storage.read_chunk(name, start, min(end, start + PIECE_BYTES))
    if first is None or (first.size, first.sha256) != (image.bytes, image.sha256):
        raise ImageNotFound(GONE)
    return first


def _is_known(image: Image, http: Request) -> bool:
    return is_known(f'"{image.sha256}"', http)


def is_known(etag: str, http: Request) -> bool:
    """Whether the client has what it asks for."""
    asked = http.headers.get("if-none-match", "")
    return http.method in SAFE_METHODS and (asked.strip() == "*" or etag in asked)


def part(image: Image, http: Request) -> tuple[int, int] | None:
    """The part that is asked for, as its first byte and the one after its last; None for all of it.

    What is no range is ignored, as RFC 9110 has it, and so is a list of ranges: it only serves to make work.
    Raises RangeNotSatisfiable.
    """
    asked, etag = _RANGE.fullmatch(http.headers.get("range", "")), f'"{image.sha256}"'
    if asked is None or http.method not in SAFE_METHODS or http.headers.get("if-range", etag) != etag:
        return None
    whole, (first, last, from_end) = image.bytes or 0, asked.groups()
    if last and int(last) < int(first):
        return None
    start = max(0, whole - int(from_end)) if from_end else int(first)
    end = min(whole, int(last) + 1) if last else whole
    if start >= end:
        raise RangeNotSatisfiable(whole)
    return start, end
