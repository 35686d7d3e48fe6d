"""Describes the bodies and answers of Replicate's API in OpenAPI."""

from typing import Any

from api.intake.openapi_bodies import json_content, request_body

_TEXT = {"type": "string"}
_INPUT = {
    "type": "object",
    "description": "Every field of a request, and the names that Replicate's models have for them",
    "properties": {
        "prompt": _TEXT,
        "aspect_ratio": {**_TEXT, "examples": ["16:9"]},
        "num_outputs": {"type": "integer"},
    },
}
_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "input": _INPUT,
        "webhook": {**_TEXT, "format": "uri"},
        "webhook_events_filter": {"type": "array", "items": {"enum": ["start", "output", "logs", "completed"]}},
    },
    "required": ["input"],
}
_PREDICTION = {
    "type": "object",
    "properties": {
        "id": _TEXT,
        "model": _TEXT,
        "version": _TEXT,
        "status": {"enum": ["starting", "processing", "succeeded", "failed", "canceled"]},
        "input": {"type": "object"},
        "output": {"type": ["array", "null"], "items": _TEXT},
        "logs": _TEXT,
        "error": {"type": ["string", "null"]},
        "urls": {"type": "object"},
    },
    "required": ["id", "status"],
}


def prediction_body(*, needs_version: bool) -> dict[str, Any]:
    schema = _BODY
    if needs_version:
        version = {**_TEXT, "description": "A model, or one of its versions"}
        schema = {**_BODY, "properties": {"version": version, **_BODY["properties"]}, "required": ["version", "input"]}
    return request_body(json_content(schema))


def prediction_answer(status: int = 200) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": "The prediction", "content": json_content(_PREDICTION)}}
