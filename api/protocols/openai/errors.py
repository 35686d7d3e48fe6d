"""Errors as the clients of OpenAI read them."""

from collections.abc import Mapping
from typing import Any

from api.delivery.protocol_errors import RenderedError, status_elsewhere
from api.intake.openapi_bodies import CODE, TEXT, object_schema
from api.problems import Problem

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
#: The codes that clients look for; all others are the service's own.
_CODES = {"content-rejected": "content_policy_violation", "model-not-found": "model_not_found"}
_OPTIONAL = {"type": ["string", "null"]}
_REQUIRED = {"message": TEXT, "type": TEXT, "param": _OPTIONAL, "code": _OPTIONAL}
_ERROR = object_schema({**_REQUIRED, "problem": CODE, "job_id": _OPTIONAL}, [*_REQUIRED])
SCHEMA = object_schema({"error": _ERROR, "detail": {**TEXT, "description": "The message again"}}, ["error"])


def error_object(problem: Problem, job_id: str | None) -> dict[str, Any]:
    """What stands under `error`. Clients show the message alone."""
    status = status_elsewhere(problem)
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    pointer = problem.errors[0].pointer.split("/")[1:2] if problem.errors else []
    error = {"message": problem.detail, "type": kind, "param": next(iter(pointer), None) or None}
    return {**error, "code": _CODES.get(problem.code, problem.code), "problem": problem.code, "job_id": job_id}


def render_error(problem: Problem, headers: Mapping[str, str]) -> RenderedError:
    job_id = headers.get("x-job-id")
    added = {"x-should-retry": "true" if problem.retryable else "false"}
    if job_id is not None:
        added["x-request-id"] = job_id
    # Clients of Replicate, which call the same paths below /v1/models, read `detail`.
    body = {"error": error_object(problem, job_id), "detail": problem.detail}
    return RenderedError(status_elsewhere(problem), body, added)
