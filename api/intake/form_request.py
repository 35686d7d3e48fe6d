"""Reads a generation request from a form and the query string."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from fastapi import Request

from api.field_errors import invalid_field, unknown_field
from api.intake.json_body import parse_json
from api.intake.json_request import request_from_fields
from api.intake.multipart_form import MultipartForm
from api.intake.uploads import RequestUploads
from api.problems import json_pointer
from shared.errors import InvalidRequest
from shared.jobs.requests import GenerationRequest

#: The fields that image parts belong to.
IMAGE_FIELDS = ("image", "mask")
#: Some clients mark lists with brackets; curl in PHP, which cannot send a name twice, numbers them: `image[0]`.
_IMAGE_IN_LIST = re.compile(r"^(image|mask)\[\d{0,2}\]\Z")
MUST_BE_FILE = "must be a file part, with a file name, or a URL"
SEND_AS_FILE = "; send an image as a file part with the name image"
#: How some clients write lists and objects: `webhook_events[]`, `metadata[order]`, `loras[][name]`.
_NESTED = re.compile(r"(\w+?)((?:\[[^\[\]]*\])+)")
#: Parameters of the query that are not fields of the request.
CALL_PARAMETERS = frozenset({"on_disconnect"})


@cache
def _structured_fields() -> frozenset[str]:
    """Fields that a form has as JSON or as a list of texts."""
    fields = GenerationRequest.model_json_schema()["properties"]
    types = {name: {kind.get("type") for kind in (field, *field.get("anyOf", ()))} for name, field in fields.items()}
    return frozenset(name for name in types if types[name] & {"array", "object"}) - {"image"}


async def read_form_request(
    http: Request, uploads: RequestUploads, translate: Callable[[Any], Any] = lambda fields: fields
) -> GenerationRequest:
    """The request, with references in place of images. `translate` turns the form into the fields of a request."""
    form, texts, images = MultipartForm(http), defaultdict(list), defaultdict(list)

    def add(name: str, text: str) -> None:
        if name not in IMAGE_FIELDS:
            texts[name].append(text)
        # Empty texts count as absent.
        elif text:
            images[name].append(_require_url(name, text))

    for name, value in http.query_params.multi_items():
        if name not in CALL_PARAMETERS:
            add(name, value)
    async for part in form.parts():
        field = _IMAGE_IN_LIST.sub(r"\1", part.name)
        # Without a file name the part is a field, or the empty file input of a browser.
        if field in IMAGE_FIELDS and part.file_name:
            images[field].append(await uploads.store(form.data(), f"/{field}"))
        else:
            add(field, await _read_text(form, field, is_file=bool(part.file_name)))
    if len(images["mask"]) > 1:
        raise invalid_field("/mask", "must be one image")
    fields = {**_parse(texts), "image": images["image"], "mask": next(iter(images["mask"]), None)}
    return await request_from_fields(http, translate(fields), uploads, {})


def _require_url(name: str, text: str) -> str:
    if not text[:8].lower().startswith(("http://", "https://", "data:")):
        raise invalid_field(f"/{name}", MUST_BE_FILE)
    return text


async def _read_text(form: MultipartForm, name: str, *, is_file: bool) -> str:
    """The current part. Raises InvalidRequest if it is not text."""
    if is_file and name not in GenerationRequest.model_fields:
        raise _unknown(name)
    try:
        return (await form.content()).decode()
    except UnicodeDecodeError:
        if name in IMAGE_FIELDS:
            raise invalid_field(f"/{name}", MUST_BE_FILE) from None
        if name in GenerationRequest.model_fields:
            raise invalid_field(f"/{name}", "must be text in UTF-8") from None
        raise _unknown(name) from None


def _unknown(name: str) -> InvalidRequest:
    return invalid_field(json_pointer([name]), f"{unknown_field(name)}{SEND_AS_FILE}")


def _parse(texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Fields from their texts. Empty texts count as absent, equal ones as one."""
    fields: dict[str, Any] = {}
    nested: dict[str, dict[str, Sequence[str]]] = defaultdict(dict)
    for name, values in texts.items():
        if (match := _NESTED.fullmatch(name)) and match[1] in _structured_fields():
            nested[match[1]][match[2]] = values
            continue
        distinct = list(dict.fromkeys(value for value in values if value))
        if name in _structured_fields() and distinct:
            fields[name] = _parse_structured(name, distinct)
        elif len(distinct) > 1 and name in GenerationRequest.model_fields:
            raise invalid_field(f"/{name}", "was given twice with different values")
        elif distinct:
            fields[name] = distinct[0]
    return fields | {name: _parse_nested(name, parts) for name, parts in nested.items()}


def _parse_structured(name: str, values: list[str]) -> Any:
    """JSON, or the items of a list: one a part, or separated by commas."""
    if len(values) > 1 or values[0].strip()[:1] not in ("{", "["):
        return [item.strip() for value in values for item in value.split(",")]
    try:
        return parse_json(values[0].encode())
    except ValueError:
        raise invalid_field(f"/{name}", "is not valid JSON") from None


def _parse_nested(name: str, parts: Mapping[str, Sequence[str]]) -> Any:
    """A list of texts, an object, or a list of objects, from what stands in brackets behind the name of the field."""
    if parts.keys() == {"[]"}:
        return list(parts["[]"])
    is_list = all(part.startswith("[]") for part in parts)
    keys = [part.removeprefix("[]" if is_list else "")[1:-1] for part in parts]
    lengths = {len(values) for values in parts.values()}
    if len(lengths) > 1 or not (is_list or lengths == {1}) or any("[" in key for key in keys):
        raise invalid_field(f"/{name}", "must be a single field with JSON as its text")
    entries = [dict(zip(keys, values, strict=True)) for values in zip(*parts.values(), strict=True)]
    return entries if is_list else entries[0]
