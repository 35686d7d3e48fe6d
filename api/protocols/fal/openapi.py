"""Describes the bodies and answers of fal's API in OpenAPI."""

from typing import Any

from api.intake.openapi_bodies import json_content, request_body

_TEXT = {"type": "string"}
_SIZE = {"anyOf": [_TEXT, {"type": "object"}], "description": "A name such as square_hd, or width and height"}
_BODY = {
    "type": "object",
    "description": "Every field of a request, and the names that fal's models have for them",
    "properties": {"prompt": _TEXT, "image_size": _SIZE, "image_url": _TEXT, "mask_url": _TEXT},
}
_RESULT = {
    "type": "object",
    "properties": {"images": {"type": "array", "items": {"type": "object"}}, "seed": {"type": "integer"}},
    "required": ["images", "seed"],
}
BODY = request_body(json_content(_BODY))
RESULT: dict[int | str, dict[str, Any]] = {200: {"description": "The images", "content": json_content(_RESULT)}}
