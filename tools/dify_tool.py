"""Prints compose/dify/imagegen.openapi.json: the schema of a custom tool for Dify, derived from /openapi.json.

Dify requires a server entry, supports plain types only, and turns each field into a parameter that a model fills in.
So the schema covers a part of the API, in simple types.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from api.app import create_app
from api.services import Services
from shared.observability.tracing import Tracing
from shared.settings.api import ApiSettings

#: The address on the network of the containers; docs/dify.md has the others.
SERVER = "http://stable-diffusion:7860"
FIELDS = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "num_images",
    "image",
    "strength",
    "output_format",
)
#: Dify gives up after 60 seconds. The job continues, and the second tool reads it.
WAIT_SECONDS = 50
#: Keywords with the same meaning in OpenAPI 3.0 and 3.1.
_KEYWORDS = ("type", "description", "enum", "default", "minimum", "maximum", "minLength", "maxLength")
MAKE = (
    "Generate an image from a prompt. The response is a job. When its state is `succeeded`, `images` has the address "
    "of each image in `url`; show it as a Markdown image. If its state is queued or running, call look_at_job later."
)
LOOK = (
    "Read an unfinished job by its `id`. When its state is `succeeded`, `images` has the address of each image, `url`."
)


def tool(openapi: Mapping[str, Any]) -> dict[str, Any]:
    schemas = openapi["components"]["schemas"]
    request = schemas["GenerationRequest"]
    body = {
        "type": "object",
        "required": request["required"],
        "properties": {name: _plain(request["properties"][name], schemas) for name in FIELDS},
    }
    wait = {"type": "string", "default": f"wait={WAIT_SECONDS}"}
    make = {
        "operationId": "make_picture",
        "description": MAKE,
        "parameters": [
            {
                "name": "Prefer",
                "in": "header",
                "description": "How long the call may wait, as wait=SECONDS.",
                "schema": wait,
            },
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The finished job"}, "202": {"description": "The unfinished job"}},
    }
    look = {
        "operationId": "look_at_job",
        "description": LOOK,
        "parameters": [{"name": "job_id", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"200": {"description": "The job"}},
    }
    return {
        "openapi": "3.0.3",
        "info": {"title": "imagegen", "version": openapi["info"]["version"], "description": "Images from prompts."},
        "servers": [{"url": SERVER}],
        "paths": {"/api/txt2img": {"post": make}, "/api/jobs/{job_id}": {"get": look}},
    }


def _plain(field: Mapping[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The field without null, references and lists: one of the four types that Dify supports."""
    kind = next(iter(field.get("anyOf", ())), field)
    if "$ref" in kind:
        kind = schemas[kind["$ref"].rpartition("/")[2]]
    values = {**kind, **{name: field[name] for name in ("description", "default") if field.get(name)}}
    return {name: values[name] for name in _KEYWORDS if name in values}


def describe_api() -> dict[str, Any]:
    """Returns the content of /openapi.json without starting a service."""
    with TemporaryDirectory() as folder:
        settings = ApiSettings(redis_url="redis://localhost", output_dir=Path(folder))
        return create_app(Services(settings, Tracing())).openapi()


def render(openapi: Mapping[str, Any]) -> str:
    return json.dumps(tool(openapi), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(describe_api()))
