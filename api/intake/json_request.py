"""Reads a generation request from a JSON body, and stores the images that it contains or links to."""

import binascii
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from api.edge.authentication import charge, require_caller
from api.edge.rate_limit import FETCH_COST
from api.field_errors import invalid_field, validate
from api.intake.images.fetching import FETCH_SECONDS
from api.intake.json_body import body_chunks, is_small, parse_body, read_json
from api.intake.json_uploads import NOT_AN_IMAGE, NOT_BASE64_DATA_URL, Base64Decoder, JsonUploadReader, decode_base64
from api.intake.uploads import RequestUploads, UploadWriter, image_too_large
from shared.jobs.requests import MAX_INPUT_IMAGES, GenerationRequest

#: Passes validation in place of an image that is fetched only if the rest of the request is valid.
UNFETCHED = f"sha256:{'0' * 64}"
#: Fewer than any image has. Words and ids, which a caller may send by mistake, pass for base64 without padding.
MIN_IMAGE_BYTES = 30

#: Images in a large body, as far as they have arrived, by the placeholders in their place.
StartedUploads = Mapping[str, Base64Decoder]


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
    body, started = await read_body(http, uploads.start)
    return await request_from_fields(http, translate(body), uploads, started)


async def read_body(http: Request, start: Callable[[], Awaitable[UploadWriter]]) -> tuple[Any, StartedUploads]:
    """The body, with placeholders for its long strings, which were written to files as they arrived."""
    if is_small(http):
        return await read_json(http), {}
    reader = JsonUploadReader(start)
    body = await reader.read(body_chunks(http))
    return parse_body(body, is_original=not reader.uploads), reader.uploads


async def request_from_fields(
    http: Request, fields: Any, uploads: RequestUploads, started: StartedUploads
) -> GenerationRequest:
    """Store the images in the fields, put references in their place, and validate the request."""
    sources = [source for source in _find_sources(fields) if source.text not in uploads]
    for source in sources:
        if not source.is_url:
            upload = await written_image(source.text, source.pointer, started, uploads.start, uploads.max_bytes)
            source.replace(await upload.finish(source.pointer))
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


async def written_image(
    text: str, pointer: str, started: StartedUploads, start: Callable[[], Awaitable[UploadWriter]], max_bytes: int
) -> UploadWriter:
    """The file with an image of the body, to be finished. Raises InvalidRequest and PayloadTooLarge."""
    if (decoder := started.get(text)) is None:
        data = _decode_image(text, pointer, max_bytes)
        upload = await start()
        await upload.write(data)
        return upload
    if decoder.error:
        raise invalid_field(pointer, decoder.error)
    return decoder.target


def _decode_image(text: str, pointer: str, max_bytes: int) -> bytes:
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
    request, end = validate(GenerationRequest, fields), time.monotonic() + FETCH_SECONDS
    if not sources:
        return request
    await charge(http, FETCH_COST * len(sources))
    caller = await require_caller(http)
    for source, url in zip(sources, urls, strict=True):
        source.replace(await uploads.fetch(url, source.pointer, end - time.monotonic(), caller))
    return validate(GenerationRequest, fields)
