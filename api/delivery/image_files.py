"""Sends the file of an image chunk by chunk, with validators and ranges, from any storage."""

import re
from http import HTTPStatus
from pathlib import PurePosixPath

from fastapi import Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from api.edge.authentication import SAFE_METHODS
from shared.errors import ImageNotFound, RangeNotSatisfiable
from shared.jobs.job import Image, Job
from shared.storage.image_chunks import CHUNK_BYTES, first_chunk, read_chunks
from shared.storage.images import (
    PREVIEW_WIDTH,
    THUMBNAIL_MEDIA_TYPE,
    THUMBNAIL_WIDTH,
    ImageStore,
    image_name,
    thumbnail_name,
)
from shared.storage.object_store import ObjectStore, stream_chunks

MAX_THUMBNAIL_BYTES = 1024 * 1024
#: An image never changes once it is recorded.
CACHE_CONTROL = "private, max-age=31536000, immutable"
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.IGNORECASE)


class FileStream(StreamingResponse):
    """A body of files that are read while it is sent. For HEAD none is read."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "HEAD":
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body"})


async def serve_image(store: ImageStore, job: Job, image: Image, http: Request) -> Response:
    """Raises ImageNotFound for a withheld image and if the recorded file is gone or changed.

    Raises RangeNotSatisfiable and StorageUnavailable.
    """
    if image.flagged:
        raise ImageNotFound("The safety checker withheld this image.")
    headers = {"ETag": f'"{image.sha256}"', "X-Job-Id": job.id, "Cache-Control": CACHE_CONTROL}
    headers["X-Seed"] = str(image.seed)
    return await _send_image(store.storage, image_name(job, image.index), image, http, headers)


async def _send_image(
    storage: ObjectStore, name: str, image: Image, http: Request, headers: dict[str, str]
) -> Response:
    # The signature of a link covers the method.
    if http.method == "GET" and (url := await storage.signed_url(name)) is not None:
        return RedirectResponse(url, headers={**headers, "Cache-Control": "no-store"})
    size, requested = image.bytes or 0, requested_range(image, http)
    start, end = requested or (0, size)
    if client_has(headers["ETag"], http):
        await first_chunk(storage, name, image, start, start + 1)
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    headers["Content-Disposition"] = f'inline; filename="{PurePosixPath(name).name}"'
    status = HTTPStatus.OK
    if requested:
        status, headers["Content-Range"] = HTTPStatus.PARTIAL_CONTENT, f"bytes {start}-{end - 1}/{size}"
    if http.method == "HEAD":
        await first_chunk(storage, name, image, start, start + 1)
        return Response(None, status, headers, image.media_type)
    first = await first_chunk(storage, name, image, start, end)
    chunks = stream_chunks(storage, name, first, start, end, CHUNK_BYTES)
    return FileStream(chunks, status, headers, image.media_type)


async def serve_thumbnail(store: ImageStore, job: Job, image: Image, http: Request) -> Response:
    """The thumbnail, or the image if it has none. Raises what `serve_image` raises."""
    chunk = None
    if not image.flagged:
        chunk = await store.storage.read_chunk(thumbnail_name(job, image.index), 0, MAX_THUMBNAIL_BYTES)
    if chunk is None or len(chunk.data) < chunk.size:
        return await serve_image(store, job, image, http)
    headers = {"ETag": f'"{chunk.sha256}"', "X-Job-Id": job.id, "Cache-Control": CACHE_CONTROL}
    if client_has(headers["ETag"], http):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(chunk.data, headers=headers, media_type=THUMBNAIL_MEDIA_TYPE)


async def read_preview(store: ImageStore, job: Job, image: Image) -> bytes | None:
    """The largest thumbnail, or None. Raises StorageUnavailable."""
    for width in (PREVIEW_WIDTH, THUMBNAIL_WIDTH):
        chunk = await store.storage.read_chunk(thumbnail_name(job, image.index, width), 0, MAX_THUMBNAIL_BYTES)
        if chunk is not None and len(chunk.data) == chunk.size:
            return chunk.data
    return None


async def read_image(store: ImageStore, job: Job, image: Image) -> bytes:
    """The whole file: for small images only. Raises ImageNotFound and StorageUnavailable."""
    return b"".join([chunk async for chunk in await read_chunks(store, job, image)])


async def image_exists(store: ImageStore, job: Job, image: Image) -> bool:
    """Whether the recorded file exists unchanged. Raises StorageUnavailable."""
    try:
        await first_chunk(store.storage, image_name(job, image.index), image, 0, 1)
    except ImageNotFound:
        return False
    return True


def client_has(etag: str, http: Request) -> bool:
    """Whether the client has this version already."""
    etags = http.headers.get("if-none-match", "")
    return http.method in SAFE_METHODS and (etags.strip() == "*" or etag in etags)


def requested_range(image: Image, http: Request) -> tuple[int, int] | None:
    """The first byte and the one after the last; None for the whole image.

    Invalid ranges are ignored, as RFC 9110 has it, and so are lists of ranges, which serve only to make work.
    Raises RangeNotSatisfiable.
    """
    match, etag = _RANGE.fullmatch(http.headers.get("range", "")), f'"{image.sha256}"'
    if match is None or http.method not in SAFE_METHODS or http.headers.get("if-range", etag) != etag:
        return None
    size, (first, last, suffix_length) = image.bytes or 0, match.groups()
    if last and int(last) < int(first):
        return None
    start = max(0, size - int(suffix_length)) if suffix_length else int(first)
    end = min(size, int(last) + 1) if last else size
    if start >= end:
        raise RangeNotSatisfiable(size)
    return start, end
