"""Errors as the clients of Hugging Face read them."""

import json
from collections.abc import Mapping
from typing import Any

from api.delivery.protocol_errors import RenderedError
from api.problems import Problem

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "error": {"type": "string"},
        "code": {"type": "string", "description": "The code in docs/errors.md"},
        "retryable": {"type": "boolean"},
    },
    "required": ["error", "code"],
}
#: Wrong requests are 400 there.
_WRONG_REQUESTS = frozenset({"invalid-request", "invalid-image", "content-rejected", "idempotency-mismatch"})


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    status = 400 if problem.code in _WRONG_REQUESTS else problem.status
    body = {"error": problem.detail, "code": problem.code, "retryable": problem.retryable}
    # A header is one line of Latin-1.
    message = " ".join(problem.detail.split()).encode("ascii", "replace").decode()
    return RenderedError(status, json.dumps(body).encode(), {"X-Error-Message": message})
