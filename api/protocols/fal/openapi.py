"""Describes the bodies and answers of fal's API in OpenAPI."""

from typing import Any

from api.intake.openapi_bodies import TEXT, json_content, object_schema, request_body

_SIZE = {"anyOf": [TEXT, {"type": "object"}], "description": "A name such as square_hd, or width and height"}
_BODY = object_schema(
    {"prompt": TEXT, "image_size": _SIZE, "image_url": TEXT, "mask_url": TEXT},
    description="Every field of a request, and the names that fal's models have for them",
)
_IMAGES = {"type": "array", "items": {"type": "object"}}
_RESULT = object_schema({"images": _IMAGES, "seed": {"type": "integer"}}, ["images", "seed"])
BODY = request_body(json_content(_BODY))
RESULT: dict[int | str, dict[str, Any]] = {200: {"description": "The images", "content": json_content(_RESULT)}}
