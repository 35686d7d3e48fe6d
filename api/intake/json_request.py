"""Reads a generation request from a JSON body, and stores the images that it contains or links to."""

import binascii
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from api.edge.authentication import charge, require_caller
from api.edge.rate_limit import FETCH_COST
from api.field_errors import invalid_field, validate_request
from api.intake.images.fetching import FETCH_SECONDS
from api.intake.json_body import MAX_VALUES, body_chunks, is_small, parse_body, read_json
from api.intake.json_uploads import NOT_AN_IMAGE, NOT_BASE64_DATA_URL, Base64Decoder, JsonUploadReader, decode_base64
from api.intake.uploads import RequestUploads, UploadWriter, image_too_large
from shared.jobs.requests import MAX_INPUT_IMAGES, GenerationRequest

#: Passes validation in place of an image that is fetched only if the rest of the request is valid.
UNFETCHED = f"sha256:{'0' * 64}"
#: Fewer than any image has. Words and ids, which a caller may send by mistake, pass for base64 without padding.
MIN_IMAGE_BYTES = 30

#: An image in a large body, as far as it has arrived.
StartedUpload = Base64Decoder[UploadWriter]


@dataclass(frozen=True, eq=False)
class _Source:
    """A field, or an item of a list, that holds an image as base64, data: URL or URL."""

    holder: Any
    key: Any
    pointer: str

    @property
    def text(self) -> Any:
        return self.holder[self.key]

    @property
    def is_url(self) -> bool:
        return bool(self.text[:8].lower().startswith(("http://", "https://")))

    def replace(self, reference: str) -> None:
        self.holder[self.key] = reference


async def read_json_request(
    http: Request, uploads: RequestUploads, translate: Callable[[Any], Any] = lambda body: body
) -> GenerationRequest:
    """The request, with references in place of images. `translate` turns the body into the fields of a request."""
    if is_small(http):
        return await request_from_fields(http, translate(await read_json(http)), uploads, lambda _: None)
    async with AsyncExitStack() as exits:
        reader = JsonUploadReader(lambda: uploads.start(exits), MAX_VALUES)
        body = parse_body(await reader.read(body_chunks(http)), is_original=not reader.uploads)
        return await request_from_fields(http, translate(body), uploads, reader.uploads.get)


async def request_from_fields(
    http: Request, fields: Any, uploads: RequestUploads, find_upload: Callable[[str], StartedUpload | None]
) -> GenerationRequest:
    """Store the images in the fields, put references in their place, and validate the request."""
    sources = [source for source in _find_sources(fields) if source.text not in uploads]
    for source in sources:
        if not source.is_url:
            source.replace(await _store(source, find_upload(source.text), uploads))
    return await _fetch_urls(http, fields, [source for source in sources if source.is_url], uploads)


def _find_sources(fields: Any) -> list[_Source]:
    """Raises InvalidRequest for one that is not a string."""
    if not isinstance(fields, dict):
        return []
    sources = []
    if (image := fields.pop("image", None)) is not None:
        is_list = isinstance(image, list)
        images = fields["image"] = image if is_list else [image]
        if len(images) > MAX_INPUT_IMAGES:
            raise invalid_field("/image", f"may be at most {MAX_INPUT_IMAGES} images")
        sources = [_Source(images, i, f"/image/{i}" if is_list else "/image") for i in range(len(images))]
    if fields.get("mask") is not None:
        sources.append(_Source(fields, "mask", "/mask"))
    for source in sources:
        if not isinstance(source.text, str):
            raise invalid_field(source.pointer, "must be a string")
    return sources


async def _store(source: _Source, upload: StartedUpload | None, uploads: RequestUploads) -> str:
    if upload is None:
        data = decode_image(source.text, source.pointer, uploads.max_bytes)
        return await uploads.store(_one_chunk(data), source.pointer)
    if upload.error:
        raise invalid_field(source.pointer, upload.error)
    return await upload.target.finish(source.pointer)


async def _one_chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


def decode_image(text: str, pointer: str, max_bytes: int) -> bytes:
    """The bytes of a short image. Raises InvalidRequest and PayloadTooLarge."""
    start, comma, data = text.partition(",") if text[:5].lower() == "data:" else ("", ",", text)
    if not comma or (start and not start.lower().endswith(";base64")):
        raise invalid_field(pointer, NOT_BASE64_DATA_URL)
    # Four characters hold three bytes; a tenth more allows for line breaks.
    if len(data) * 3 // 4 > max_bytes * 1.1:
        raise image_too_large(pointer, max_bytes)
    # Without copies where possible: few texts have line breaks, the alphabet for URLs or no padding.
    with suppress(ValueError):
        return binascii.a2b_base64(data, strict_mode=True)
    with suppress(ValueError):
        image = decode_base64("".join(data.split()).encode("ascii"))
        if len(image) >= MIN_IMAGE_BYTES:
            return image
    raise invalid_field(pointer, NOT_AN_IMAGE)


async def _fetch_urls(
    http: Request, fields: Any, sources: Sequence[_Source], uploads: RequestUploads
) -> GenerationRequest:
    """Validate the request, then fetch and replace the URLs in it."""
    urls = [source.text for source in sources]
    for source in sources:
        source.replace(UNFETCHED)
    request, end = validate_request(fields), time.monotonic() + FETCH_SECONDS
    if not sources:
        return request
    await charge(http, FETCH_COST * len(sources))
    client_id = require_caller(http).client_id
    for source, url in zip(sources, urls, strict=True):
        source.replace(await uploads.fetch(url, source.pointer, end - time.monotonic(), client_id))
    return validate_request(fields)
