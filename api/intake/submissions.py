"""What is submitted, however it comes: a request whose images are stored already, as JSON or as a form."""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.edge.authentication import charge
from api.edge.rate_limit import FETCH_COST
from api.field_errors import unknown_field
from api.intake.fetching import FETCH_SECONDS
from api.intake.image_sources import decode_image, is_url
from api.intake.json_body import MAX_VALUES, body_chunks, is_small, json_chunks, media_type, parse_body, parse_json
from api.intake.json_uploads import Base64Decoder, JsonUploadReader
from api.intake.multipart_form import FORM_MEDIA_TYPE, MultipartForm, Part
from api.intake.uploads import RequestUploads, UploadWriter
from api.problems import json_pointer
from api.services import Services
from shared.errors import FieldError, InvalidRequest, UnsupportedMediaType
from shared.jobs.requests import MAX_INPUT_IMAGES, GenerationRequest

#: Names of parts that are images, and the fields that they make. Some clients mark lists with brackets.
IMAGES = {"image": "image", "image[]": "image", "mask": "mask"}
SEND_IMAGES = "; send an image as a file part with the name image"
#: Stands where the reference to an image will be.
TO_COME = f"sha256:{'0' * 64}"


@dataclass(frozen=True)
class Submission:
    request: GenerationRequest
    uploads: RequestUploads


# No dependencies of FastAPI: solving those took a fifth of what it costs to accept a job.
@asynccontextmanager
async def json_submission(http: Request, services: Services) -> AsyncIterator[Submission]:
    """Raises UnsupportedMediaType, InvalidRequest, InvalidImage and what receiving the body raises."""
    # A page in a browser can post text/plain anywhere; only JSON makes it ask for permission first (CORS).
    if media_type(http) != "application/json":
        raise UnsupportedMediaType
    _require_plain(http)
    async with services.uploads.open_request() as uploads:
        yield Submission(await _from_json(http, uploads), uploads)


@asynccontextmanager
async def image_submission(http: Request, services: Services) -> AsyncIterator[Submission]:
    """The same for a request that has to bring an image, and may be a form."""
    if media_type(http) not in (FORM_MEDIA_TYPE, "application/json"):
        raise UnsupportedMediaType(f"Send the request as {FORM_MEDIA_TYPE}, or as JSON.")
    _require_plain(http)
    async with services.uploads.open_request() as uploads:
        read = _from_form if media_type(http) == FORM_MEDIA_TYPE else _from_json
        request = await read(http, uploads)
        if not request.image:
            raise _wrong("/image", "is missing: send the image as a file part of this name")
        yield Submission(request, uploads)


def _require_plain(http: Request) -> None:
    """A small body may become a large one when it is decompressed."""
    if http.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the body as it is: this service reads none that is compressed.")


def _checked(fields: Any) -> GenerationRequest:
    try:
        return GenerationRequest.model_validate(fields)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**field, "loc": ("body", *field["loc"])} for field in wrong]) from None


async def _from_json(http: Request, uploads: RequestUploads) -> GenerationRequest:
    """The request, with references in the place of images."""
    async with AsyncExitStack() as exits:
        lifting = JsonUploadReader(lambda: uploads.start(exits), MAX_VALUES)
        if is_small(http):
            fields = parse_body(b"".join([piece async for piece in json_chunks(http)]))
        else:
            fields = parse_body(await lifting.read(body_chunks(http)))
        sources = _sources(fields)
        for source in sources:
            if not is_url(source.text):
                source.replace(await _stored(source, lifting.lifted.get(source.text), uploads))
    return await _fetched(http, fields, sources, uploads)


async def _stored(source: "_Source", long: Base64Decoder[UploadWriter] | None, uploads: RequestUploads) -> str:
    """The reference to what is no address."""
    if long is None:
        data = decode_image(source.text, uploads.max_bytes, source.pointer)
        return await uploads.store(_whole(data), source.pointer)
    if long.wrong:
        raise _wrong(source.pointer, long.wrong)
    return await uploads.finish(long.target, source.pointer)


async def _fetched(
    http: Request, fields: Any, sources: Sequence["_Source"], uploads: RequestUploads
) -> GenerationRequest:
    """The request, with references in the place of sources that are addresses; these are asked if all else is right."""
    addresses = {source: source.text for source in sources if is_url(source.text)}
    for source in addresses:
        source.replace(TO_COME)
    request, end = _checked(fields), time.monotonic() + FETCH_SECONDS
    if addresses:
        await charge(http, FETCH_COST * len(addresses))
    for source, url in addresses.items():
        source.replace(await uploads.fetch(url, source.pointer, end - time.monotonic()))
    return _checked(fields) if addresses else request


@dataclass(frozen=True, eq=False)
class _Source:
    """Where in the fields there is one: what holds it, and under which key."""

    holder: Any
    key: Any
    pointer: str

    @property
    def text(self) -> Any:
        return self.holder[self.key]

    def replace(self, reference: str) -> None:
        self.holder[self.key] = reference


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _sources(fields: Any) -> list[_Source]:
    """Raises InvalidRequest for what cannot be one."""
    if not isinstance(fields, dict):
        return []
    image = fields.pop("image", None)
    sources = []
    if isinstance(image, list):
        if len(image) > MAX_INPUT_IMAGES:
            raise _wrong("/image", f"may be at most {MAX_INPUT_IMAGES} images")
        fields["image"] = image
        sources = [_Source(image, at, f"/image/{at}") for at in range(len(image))]
    elif image is not None:
        fields["image"] = [image]
        sources = [_Source(fields["image"], 0, "/image")]
    if fields.get("mask") is not None:
        sources.append(_Source(fields, "mask", "/mask"))
    for source in sources:
        if not isinstance(source.text, str):
            raise _wrong(source.pointer, "must be a string")
    return sources


async def _from_form(http: Request, uploads: RequestUploads) -> GenerationRequest:
    """The fields of the form and of the query, with references for the parts that are images."""
    form, texts, images = MultipartForm(http), defaultdict(list), defaultdict(list)
    for name, value in http.query_params.multi_items():
        if name not in NO_FIELDS:
            texts[name].append(value)
    async for part in form.parts():
        field = IMAGES.get(part.name)
        # Without a file name: a field, or what browsers send for an image that nobody chose.
        if field is not None and part.file_name:
            images[field].append(await uploads.store(form.data(), f"/{field}"))
        else:
            texts[field or part.name].append(await _text(form, part))
    for name in ("image", "mask"):
        if any(texts.pop(name, ())):
            raise _wrong(f"/{name}", "must be a file part, with a file name")
    if len(images["mask"]) > 1:
        raise _wrong("/mask", "must be one image")
    return _checked({**_joined(texts), "image": images["image"], "mask": next(iter(images["mask"]), None)})


async def _text(form: MultipartForm, part: Part) -> str:
    """The text of a part that is no image. Raises InvalidRequest."""
    name = IMAGES.get(part.name, part.name)
    if part.file_name and name not in GenerationRequest.model_fields:
        raise _wrong(json_pointer([name]), f"{unknown_field(name)}{SEND_IMAGES}")
    try:
        return (await form.content()).decode()
    except UnicodeDecodeError:
        if name in IMAGES.values():
            raise _wrong(f"/{name}", "must be a file part, with a file name") from None
        if name in GenerationRequest.model_fields:
            raise _wrong(f"/{name}", "must be text in UTF-8") from None
        raise _wrong(json_pointer([name]), f"{unknown_field(name)}{SEND_IMAGES}") from None


def _joined(texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Fields from texts. What is left empty is left out; what is told twice must be the same."""
    fields: dict[str, Any] = {}
    for name, given in texts.items():
        told = list(dict.fromkeys(text for text in given if text))
        if name in STRUCTURED and told:
            fields[name] = _structure(name, told)
        elif len(told) > 1 and name in GenerationRequest.model_fields:
            raise _wrong(f"/{name}", "was given twice with different values")
        elif told:
            fields[name] = told[0]
    return fields


def _structure(name: str, told: list[str]) -> Any:
    """JSON, or the entries of a list, one a part or separated by commas."""
    if len(told) > 1 or told[0].strip()[:1] not in ("{", "["):
        return [entry.strip() for text in told for entry in text.split(",")]
    try:
        return parse_json(told[0].encode())
    except ValueError:
        raise _wrong(f"/{name}", "is not valid JSON") from None


def _wrong(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(errors=[FieldError(pointer, detail)])


def _structured() -> frozenset[str]:
    fields = GenerationRequest.model_json_schema()["properties"]
    kinds = {name: {kind.get("type") for kind in (field, *field.get("anyOf", ()))} for name, field in fields.items()}
    return frozenset(name for name in kinds if kinds[name] & {"array", "object"})


#: Fields that are more than a text or a number; in forms they are JSON, or lists.
STRUCTURED = _structured() - {"image"}
#: Of the query: what is said to the call and not of the image.
NO_FIELDS = frozenset({"on_disconnect"})
