"""Errors as the clients of AUTOMATIC1111's web UI read them."""

from collections.abc import Mapping

from api.delivery.protocol_errors import RenderedError
from api.intake.openapi_bodies import CODE, FLAG, TEXT, object_schema
from api.problems import Problem

_TEXTS = {"error": CODE, "detail": TEXT, "body": TEXT, "errors": TEXT}
SCHEMA = object_schema({**_TEXTS, "retryable": FLAG}, [*_TEXTS])


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    """Some clients show `detail`, others `errors`."""
    body = {"error": problem.code, "detail": problem.detail, "body": "", "errors": problem.detail}
    return RenderedError(problem.status, {**body, "retryable": problem.retryable})
