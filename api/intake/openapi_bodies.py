"""Describes request bodies in OpenAPI, because routes read them without FastAPI's dependencies."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from api.intake.multipart_form import FORM_MEDIA_TYPE
from shared.jobs.requests import GenerationRequest

#: Fields whose value is a list.
LISTS = frozenset({"loras", "webhook_events"})


def json_request_body(examples: Mapping[str, Any]) -> dict[str, Any]:
    """What `json_submission` reads, for `openapi_extra`."""
    schema = {"$ref": "#/components/schemas/GenerationRequest"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
    }


def form_request_body(required: Sequence[str] = ("image", "prompt")) -> dict[str, Any]:
    """What `image_submission` reads, for `openapi_extra`."""
    schema = GenerationRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    file = {"type": "string", "format": "binary"}
    images: dict[str, dict[str, Any]] = {"image": {"type": "array", "items": file, "minItems": 1}, "mask": file}
    fields = {name: {**field, **images.get(name, {})} for name, field in schema["properties"].items()}
    for name in images:
        fields[name].pop("anyOf")
    for name in fields.keys() - images.keys() - {"prompt"}:
        # An empty field counts as left out. Without an example, the page at /docs fills in an invented value.
        fields[name]["examples"] = [[] if name in LISTS else ""]
    form = {"type": "object", "properties": fields, "required": list(required)}
    json = {"schema": {"$ref": "#/components/schemas/GenerationRequest", "required": ["image"]}}
    return {"requestBody": {"required": True, "content": {FORM_MEDIA_TYPE: {"schema": form}, "application/json": json}}}


def model_request_body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body of another protocol. Some clients leave fields out that others call required."""
    schema = model.model_json_schema()
    # References resolve only at the top of the document.
    definitions = schema.pop("$defs", {})
    return {"requestBody": {"content": {"application/json": {"schema": _inlined(schema, definitions)}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    match schema:
        case {"$ref": str(reference)}:
            return _inlined(definitions[reference.rpartition("/")[2]], definitions)
        case dict():
            return {name: _inlined(value, definitions) for name, value in schema.items()}
        case list():
            return [_inlined(value, definitions) for value in schema]
        case _:
            return schema
