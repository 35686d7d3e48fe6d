"""Errors as the clients of fal read them."""

from collections.abc import Mapping
from typing import Any

from api.delivery.protocol_errors import RenderedError
from api.problems import Problem

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "detail": {"type": "string"},
        "error_type": {"type": "string", "description": "The code in docs/errors.md"},
        "retryable": {"type": "boolean"},
    },
    "required": ["detail", "error_type"],
}


def render_error(problem: Problem, headers: Mapping[str, str]) -> RenderedError:
    body = {"detail": problem.detail, "error_type": problem.code, "retryable": problem.retryable}
    # Without this header, clients take some errors for those of a proxy.
    added = {"x-fal-request-id": headers.get("x-job-id", "none")}
    return RenderedError(problem.status, body, added)
