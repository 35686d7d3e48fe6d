"""How the bytes of an image go out: piece by piece, wherever they lie."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import PurePosixPath

from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from api.edge.authentication import SAFE_METHODS
from shared.errors import ImageNotFound, RangeNotSatisfiable
from shared.jobs.job import Image, Job
from shared.storage.images import ImageStore, image_name
from shared.storage.object_store import Chunk, ObjectStore, stream_chunks

#: What one client may take of the memory; most images are smaller, and so one request.
CHUNK_BYTES = 2 * 1024 * 1024
#: An image never changes once it is recorded.
CACHE_CONTROL = "private, max-age=31536000, immutable"
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)
GONE = "The file of this image is gone or damaged."


async def serve_image(store: ImageStore, job: Job, image: Image, http: Request) -> Response:
    """Raises ImageNotFound when the file is gone, is not the one that was recorded, or was never to be seen.

    Raises RangeNotSatisfiable and StorageUnavailable.
    """
    if image.flagged:
        raise ImageNotFound("The safety checker withheld this image.")
    headers = {"ETag": f'"{image.sha256}"', "X-Job-Id": job.id, "Cache-Control": CACHE_CONTROL}
    headers["X-Seed"] = str(image.seed)
    return await _send_image(store.storage, image_name(job, image.index), image, http, headers)


async def _send_image(
    storage: ObjectStore, name: str, image: Image, http: Request, headers: Mapping[str, str]
) -> Response:
    """Raises StorageUnavailable, and ImageNotFound when the file is not the very one that was recorded."""
    if (link := await storage.signed_url(name)) is not None:
        return RedirectResponse(link, headers={**headers, "Cache-Control": "no-store"})
    whole, asked = image.bytes or 0, requested_range(image, http)
    start, end = asked or (0, whole)
    if _client_has(image, http):
        await _first_chunk(storage, name, image, start, start + 1)
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=dict(headers))
    about = {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    about["Content-Disposition"] = f'inline; filename="{PurePosixPath(name).name}"'
    status = HTTPStatus.OK
    if asked:
        status, about["Content-Range"] = HTTPStatus.PARTIAL_CONTENT, f"bytes {start}-{end - 1}/{whole}"
    if http.method == "HEAD":
        await _first_chunk(storage, name, image, start, start + 1)
        return Response(None, status, {**headers, **about}, image.media_type)
    first = await _first_chunk(storage, name, image, start, end)
    sent = stream_chunks(storage, name, first, start, end, CHUNK_BYTES)
    return StreamingResponse(sent, status, {**headers, **about}, image.media_type)


async def image_exists(storage: ObjectStore, name: str, image: Image) -> bool:
    """Whether the very file that was recorded is. Raises StorageUnavailable."""
    try:
        await _first_chunk(storage, name, image, 0, 1)
    except ImageNotFound:
        return False
    return True


async def _first_chunk(storage: ObjectStore, name: str, image: Image, start: int, end: int) -> Chunk:
    """Asked for before the answer begins, so that it can still be a problem."""
    first = await storage.read_chunk(name, start, min(end, start + CHUNK_BYTES))
    if first is None or (first.size, first.sha256) != (image.bytes, image.sha256):
        raise ImageNotFound(GONE)
    return first


def _client_has(image: Image, http: Request) -> bool:
    return client_has(f'"{image.sha256}"', http)


def client_has(etag: str, http: Request) -> bool:
    """Whether the client has what it asks for."""
    asked = http.headers.get("if-none-match", "")
    return http.method in SAFE_METHODS and (asked.strip() == "*" or etag in asked)


def requested_range(image: Image, http: Request) -> tuple[int, int] | None:
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
