"""Errors as the clients of AUTOMATIC1111's web UI read them."""

from collections.abc import Mapping
from typing import Any

from api.delivery.protocol_errors import RenderedError
from api.problems import Problem

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "error": {"type": "string", "description": "The code in docs/errors.md"},
        "detail": {"type": "string"},
        "body": {"type": "string"},
        "errors": {"type": "string"},
        "retryable": {"type": "boolean"},
    },
    "required": ["error", "detail", "body", "errors"],
}


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    """Some clients show `detail`, others `errors`."""
    body = {"error": problem.code, "detail": problem.detail, "body": "", "errors": problem.detail}
    return RenderedError(problem.status, {**body, "retryable": problem.retryable})
