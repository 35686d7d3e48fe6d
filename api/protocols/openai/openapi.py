"""Describes the bodies and answers of the OpenAI API in OpenAPI."""

from typing import Any

from api.intake.multipart_form import FORM_MEDIA_TYPE
from api.intake.openapi_bodies import TEXT, described_later, json_content, object_schema, request_body
from api.protocols.openai.wire import ImageParameters
from shared.jobs.types import OutputFormat, ResponseFormat

_FILE = {"type": "string", "format": "binary"}
_IMAGES = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "maxItems": 16}]}
_DATA = {"type": "array", "items": object_schema({"b64_json": TEXT, "url": TEXT})}
_TEXTS = dict.fromkeys(("background", "output_format", "quality", "size"), TEXT)
_BODY = object_schema(
    {"created": {"type": "integer"}, "data": _DATA, **_TEXTS, "usage": {"type": "object"}}, ["created", "data", "usage"]
)
#: The `responses` of the routes; openapi.install adds the errors.
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The images, or with `stream` their events",
        "content": {**json_content(_BODY), "text/event-stream": {}},
    }
}


@described_later
def generation_body() -> dict[str, Any]:
    return request_body(json_content(_schema({}, ["prompt"])))


@described_later
def edit_body() -> dict[str, Any]:
    form = _schema({"image": {"type": "array", "items": _FILE, "minItems": 1}, "mask": _FILE}, ["prompt", "image"])
    json = _schema({"image": _IMAGES, "mask": TEXT}, ["prompt", "image"])
    return request_body({FORM_MEDIA_TYPE: {"schema": form}, **json_content(json)})


@described_later
def variation_body() -> dict[str, Any]:
    return request_body({FORM_MEDIA_TYPE: {"schema": _schema({"image": _FILE}, ["image"])}})


def _schema(images: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = ImageParameters.model_json_schema()
    own = {
        "prompt": {"type": "string", "minLength": 1, "maxLength": 4000},
        "response_format": {"enum": [str(choice) for choice in ResponseFormat], "default": "b64_json"},
        "output_format": {"enum": [str(choice) for choice in OutputFormat], "default": "png"},
    }
    schema["properties"] = {**own, **images, **schema["properties"]}
    return {**schema, "title": "OpenAI image request", "required": required}
