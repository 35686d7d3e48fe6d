"""Describes the body and the answer of Hugging Face's inference API in OpenAPI."""

from typing import Any

from api.intake.openapi_bodies import TEXT, json_content, object_schema, request_body

_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
_PROMPT = {**TEXT, "description": "What to make of the image in inputs"}
_PARAMETERS = object_schema(
    {"prompt": _PROMPT, "target_size": {"type": "object"}}, description="Every field of a request, and target_size"
)
_INPUTS = {**TEXT, "description": "The prompt, or an image as base64"}
_BODY = object_schema({"inputs": _INPUTS, "parameters": _PARAMETERS}, ["inputs"])
REQUEST = request_body({**json_content(_BODY), **{kind: {} for kind in _IMAGE_TYPES}})
ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "The bytes of the image", "content": {kind: {} for kind in _IMAGE_TYPES}}
}
