"""Errors as the clients of Replicate read them."""

from collections.abc import Mapping
from typing import Any

from api.delivery.protocol_errors import RenderedError
from api.problems import Problem

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "detail": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "The code in docs/errors.md"},
        "retryable": {"type": "boolean"},
        "invalid_fields": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["title", "detail", "status", "code"],
}


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    fields = [{"field": error.pointer, "description": error.detail} for error in problem.errors]
    body = {"title": problem.title, "detail": problem.detail, "status": problem.status, "code": problem.code}
    return RenderedError(problem.status, {**body, "retryable": problem.retryable, "invalid_fields": fields})
