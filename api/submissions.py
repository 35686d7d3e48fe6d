"""What is submitted, however it comes: a request whose pictures are stored already, as JSON or as a form."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import from_json

from api.bodies import MAX_JSON_BYTES, media_type, parsed, received
from api.forms import Form, Part
from api.services import ServicesDep
from api.sources import decoded, fetched, is_address
from api.uploads import Uploads
from shared.errors import FieldError, InvalidRequest, UnsupportedMediaType
from shared.schemas import MAX_INPUT_IMAGES, GenerationRequest

FORM = "multipart/form-data"
#: Names of parts that are pictures, and the fields that they make. Some clients mark lists with brackets.
PICTURES = {"image": "image", "image[]": "image", "mask": "mask"}


@dataclass(frozen=True)
class Submission:
    request: GenerationRequest
    uploads: Uploads


async def _as_json(http: Request, services: ServicesDep) -> AsyncIterator[Submission]:
    # A page in a browser can post text/plain anywhere; only JSON makes it ask for permission first (CORS).
    if media_type(http) != "application/json":
        raise UnsupportedMediaType
    async with services.intake.open() as uploads:
        yield Submission(_checked(await _json_fields(http, uploads)), uploads)


async def _with_picture(http: Request, services: ServicesDep) -> AsyncIterator[Submission]:
    if media_type(http) not in (FORM, "application/json"):
        raise UnsupportedMediaType(f"Send the request as {FORM}, or as JSON.")
    if media_type(http) == FORM and _is_from_elsewhere(http):
        raise UnsupportedMediaType("From a page of another site, send the request as JSON.")
    async with services.intake.open() as uploads:
        read = _form_fields if media_type(http) == FORM else _json_fields
        request = _checked(await read(http, uploads))
        if not request.image:
            raise InvalidRequest(errors=[FieldError("/image", "send the picture, as a file part of this name")])
        yield Submission(request, uploads)


JsonSubmission = Annotated[Submission, Depends(_as_json)]
PictureSubmission = Annotated[Submission, Depends(_with_picture)]


def _is_from_elsewhere(http: Request) -> bool:
    """Whether a page of another origin sends it: browsers let any page post a form without asking."""
    site, origin = http.headers.get("sec-fetch-site"), http.headers.get("origin")
    if site is not None:
        return site in ("cross-site", "same-site")
    return origin is not None and urlsplit(origin).netloc != http.headers.get("host")


def _checked(fields: Any) -> GenerationRequest:
    try:
        return GenerationRequest.model_validate(fields)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**field, "loc": ("body", *field["loc"])} for field in wrong]) from None


async def _json_fields(http: Request, uploads: Uploads) -> Any:
    """The body with references in the place of pictures."""
    if int(http.headers.get("content-length", "0")) <= MAX_JSON_BYTES:
        fields = parsed(b"".join([piece async for piece in received(http)]))
        await _take(fields, uploads, decoded)
    else:
        async with uploads.spooled(received(http)) as body:
            fields = await asyncio.to_thread(lambda: parsed(body.content()))
            await _take(fields, uploads, decoded)
    # Not while others wait for their turn: somebody else's server may take its time.
    await _take(fields, uploads, fetched)
    return fields


async def _take(fields: Any, uploads: Uploads, read: Callable[[str, int, str], Awaitable[bytes]]) -> None:
    """Put references in the place of the sources that are for `read`."""
    for holder, key, pointer in _places(fields):
        if is_address(holder[key]) is (read is fetched):
            data = await read(holder[key], uploads.max_bytes, pointer)
            holder[key] = await uploads.take(_whole(data), pointer)


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _places(fields: Any) -> list[tuple[Any, Any, str]]:
    """Where there are sources: what holds them, under which key, and the pointer to them. Raises InvalidRequest."""
    if not isinstance(fields, dict):
        return []
    image, mask = fields.get("image"), fields.get("mask")
    several = isinstance(image, list)
    places: list[tuple[Any, Any, str]] = []
    if image is not None:
        fields["image"] = image if several else [image]
        if len(fields["image"]) > MAX_INPUT_IMAGES:
            raise InvalidRequest(errors=[FieldError("/image", f"may be at most {MAX_INPUT_IMAGES} pictures")])
        places += [(fields["image"], at, f"/image/{at}" if several else "/image") for at in range(len(fields["image"]))]
    elif "image" in fields:
        del fields["image"]
    if mask is not None:
        places.append((fields, "mask", "/mask"))
    if wrong := [pointer for holder, key, pointer in places if not isinstance(holder[key], str)]:
        raise InvalidRequest(errors=[FieldError(pointer, "must be a string") for pointer in wrong])
    return places


async def _form_fields(http: Request, uploads: Uploads) -> dict[str, Any]:
    """The fields of the form and of the query, with references for the parts that are pictures."""
    form, texts, pictures = Form(http), defaultdict(list), defaultdict(list)
    for name, value in http.query_params.multi_items():
        if name not in NO_FIELDS:
            texts[name].append(value)
    async for part in form.parts():
        field = PICTURES.get(part.name)
        if field is None:
            texts[part.name].append(await form.text())
        # Browsers send a part without a name or bytes for a picture that nobody chose.
        elif part.file_name != "":
            pictures[field].append(await _picture(form, part, uploads, f"/{field}"))
    if wrong := [FieldError(f"/{name}", "must be a file part") for name in ("image", "mask") if name in texts]:
        raise InvalidRequest(errors=wrong)
    if len(pictures["mask"]) > 1:
        raise InvalidRequest(errors=[FieldError("/mask", "must be one picture")])
    return {**_joined(texts), "image": pictures["image"], "mask": next(iter(pictures["mask"]), None)}


async def _picture(form: Form, part: Part, uploads: Uploads, pointer: str) -> str:
    if part.file_name is None:
        raise InvalidRequest(errors=[FieldError(pointer, "must be a file part, with a file name")])
    return await uploads.take(form.data(), pointer)


def _joined(texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Fields from texts. What is left empty is left out; what is told twice must be the same."""
    fields: dict[str, Any] = {}
    for name, given in texts.items():
        told = list(dict.fromkeys(text for text in given if text))
        if name in STRUCTURED and told:
            fields[name] = _structure(name, told)
        elif len(told) > 1 and name in GenerationRequest.model_fields:
            raise InvalidRequest(errors=[FieldError(f"/{name}", "is told twice, and not the same")])
        elif told:
            fields[name] = told[0]
    return fields


def _structure(name: str, told: list[str]) -> Any:
    """JSON, or the entries of a list, one a part or separated by commas."""
    if len(told) > 1 or told[0].strip()[:1] not in ("{", "["):
        return [entry.strip() for text in told for entry in text.split(",")]
    try:
        return from_json(told[0], allow_inf_nan=False)
    except ValueError:
        raise InvalidRequest(errors=[FieldError(f"/{name}", "is not valid JSON")]) from None


def _structured() -> frozenset[str]:
    fields = GenerationRequest.model_json_schema()["properties"]
    kinds = {name: {kind.get("type") for kind in (field, *field.get("anyOf", ()))} for name, field in fields.items()}
    return frozenset(name for name in kinds if kinds[name] & {"array", "object"})


#: Fields that are more than a text or a number; in forms they are JSON, or lists.
STRUCTURED = _structured() - {"image"}
#: Of the query: what is said to the call and not of the picture.
NO_FIELDS = frozenset({"on_disconnect"})


def json_body(examples: Mapping[str, Any]) -> dict[str, Any]:
    """For `openapi_extra`: what JsonSubmission reads."""
    schema = {"$ref": "#/components/schemas/GenerationRequest"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def form_body() -> dict[str, Any]:
    """For `openapi_extra`: what PictureSubmission reads."""
    schema = GenerationRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    file = {"type": "string", "format": "binary"}
    pictures: dict[str, dict[str, Any]] = {"image": {"type": "array", "items": file, "minItems": 1}, "mask": file}
    fields = {name: {**field, **pictures.get(name, {})} for name, field in schema["properties"].items()}
    for name in pictures:
        fields[name].pop("anyOf")
    form = {"type": "object", "properties": fields, "required": ["image", "prompt"]}
    json = {"schema": {"$ref": "#/components/schemas/GenerationRequest"}}
    return {"requestBody": {"required": True, "content": {FORM: {"schema": form}, "application/json": json}}}
