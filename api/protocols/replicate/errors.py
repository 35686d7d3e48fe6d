"""Errors as the clients of Replicate read them."""

from collections.abc import Mapping

from api.delivery.protocol_errors import RenderedError
from api.intake.openapi_bodies import CODE, FLAG, TEXT, object_schema
from api.problems import Problem

_REQUIRED = {"title": TEXT, "detail": TEXT, "status": {"type": "integer"}, "code": CODE}
_FIELDS = {"type": "array", "items": {"type": "object"}}
SCHEMA = object_schema({**_REQUIRED, "retryable": FLAG, "invalid_fields": _FIELDS}, [*_REQUIRED])


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    fields = [{"field": error.pointer, "description": error.detail} for error in problem.errors]
    body = {"title": problem.title, "detail": problem.detail, "status": problem.status, "code": problem.code}
    return RenderedError(problem.status, {**body, "retryable": problem.retryable, "invalid_fields": fields})
