"""Describes the bodies and answers of Replicate's API in OpenAPI."""

from typing import Any

from api.intake.openapi_bodies import TEXT, json_content, object_schema, request_body

_INPUT = object_schema(
    {"prompt": TEXT, "aspect_ratio": {**TEXT, "examples": ["16:9"]}, "num_outputs": {"type": "integer"}},
    description="Every field of a request, and the names that Replicate's models have for them",
)
_VERSION = {"version": {**TEXT, "description": "A model, or one of its versions"}}
_BODY = {
    "input": _INPUT,
    "webhook": {**TEXT, "format": "uri"},
    "webhook_events_filter": {"type": "array", "items": {"enum": ["start", "output", "logs", "completed"]}},
}
_PREDICTION = {
    "id": TEXT,
    "model": TEXT,
    "version": TEXT,
    "status": {"enum": ["starting", "processing", "succeeded", "failed", "canceled"]},
    "input": {"type": "object"},
    "output": {"type": ["array", "null"], "items": TEXT},
    "logs": TEXT,
    "error": {"type": ["string", "null"]},
    "urls": {"type": "object"},
}


def prediction_body(*, needs_version: bool) -> dict[str, Any]:
    version = _VERSION if needs_version else {}
    return request_body(json_content(object_schema({**version, **_BODY}, [*version, "input"])))


def prediction_answer(status: int = 200) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"description": "The prediction", "content": json_content(object_schema(_PREDICTION, ["id", "status"]))}
    }
