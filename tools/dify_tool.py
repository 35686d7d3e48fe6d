"""Derives the schema of a custom tool for Dify from /openapi.json.

curl -s http://localhost:7860/openapi.json | python -m tools.dify_tool > compose/dify/imagegen.openapi.json

Dify wants a server in it, takes plain types only, and makes of each field one parameter that a model may fill in. So
this is a part of the API, in simpler words.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

#: On the network of the containers; docs/dify.md has the other addresses.
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
#: Dify gives up after 60 seconds. The job goes on, and can be looked at.
WAIT_SECONDS = 50
#: What OpenAPI 3.0 and 3.1 mean the same by.
_KEYWORDS = ("type", "description", "enum", "default", "minimum", "maximum", "minLength", "maxLength")
MAKE = (
    "Make an image from a prompt. The answer is a job: once its state is `succeeded`, `images` has the address of "
    "each image in `url`, to be shown as a Markdown image. If its state is queued or running, look at the job later."
)
LOOK = (
    "Look at a job that was not done yet, by its `id`. Once it has succeeded, `images` has the address of each image."
)


def tool(openapi: Mapping[str, Any]) -> dict[str, Any]:
    schemas = openapi["components"]["schemas"]
    asked = schemas["GenerationRequest"]
    body = {
        "type": "object",
        "required": asked["required"],
        "properties": {name: _plain(asked["properties"][name], schemas) for name in FIELDS},
    }
    wait = {"type": "string", "default": f"wait={WAIT_SECONDS}"}
    make = {
        "operationId": "make_picture",
        "description": MAKE,
        "parameters": [
            {"name": "Prefer", "in": "header", "description": "How long the call may wait.", "schema": wait},
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "The finished job"}, "202": {"description": "The job, not done yet"}},
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
    """The field without null, references and lists: what is left of it is one of the four types that Dify knows."""
    kind = next(iter(field.get("anyOf", ())), field)
    if "$ref" in kind:
        kind = schemas[kind["$ref"].rpartition("/")[2]]
    told = {**kind, **{name: field[name] for name in ("description", "default") if field.get(name)}}
    return {name: told[name] for name in _KEYWORDS if name in told}


def render(openapi: Mapping[str, Any]) -> str:
    return json.dumps(tool(openapi), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render(json.load(sys.stdin)))
