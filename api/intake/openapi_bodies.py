"""Describes request bodies in OpenAPI, because routes read them without FastAPI's dependencies."""

from collections.abc import Mapping
from typing import Any

from api.intake.multipart_form import FORM_MEDIA_TYPE
from shared.jobs.requests import GenerationRequest


def json_request_body(examples: Mapping[str, Any]) -> dict[str, Any]:
    """What `json_submission` reads, for `openapi_extra`."""
    schema = {"$ref": "#/components/schemas/GenerationRequest"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def form_request_body() -> dict[str, Any]:
    """What `image_submission` reads, for `openapi_extra`."""
    schema = GenerationRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    file = {"type": "string", "format": "binary"}
    images: dict[str, dict[str, Any]] = {"image": {"type": "array", "items": file, "minItems": 1}, "mask": file}
    fields = {name: {**field, **images.get(name, {})} for name, field in schema["properties"].items()}
    for name in images:
        fields[name].pop("anyOf")
    form = {"type": "object", "properties": fields, "required": ["image", "prompt"]}
    json = {"schema": {"$ref": "#/components/schemas/GenerationRequest", "required": ["image"]}}
    return {"requestBody": {"required": True, "content": {FORM_MEDIA_TYPE: {"schema": form}, "application/json": json}}}
