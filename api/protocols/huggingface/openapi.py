"""Describes the body and the answer of Hugging Face's inference API in OpenAPI."""

from typing import Any

from api.intake.openapi_bodies import json_content, request_body

_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
_PARAMETERS = {
    "type": "object",
    "description": "Every field of a request, and target_size",
    "properties": {
        "prompt": {"type": "string", "description": "What to make of the image in inputs"},
        "target_size": {"type": "object"},
    },
}
_BODY = {
    "type": "object",
    "properties": {
        "inputs": {"type": "string", "description": "The prompt, or an image as base64"},
        "parameters": _PARAMETERS,
    },
    "required": ["inputs"],
}
REQUEST = request_body({**json_content(_BODY), **{kind: {} for kind in _IMAGE_TYPES}})
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes of the image", "content": {kind: {} for kind in _IMAGE_TYPES}}
}
