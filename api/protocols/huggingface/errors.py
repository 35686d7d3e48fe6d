"""Errors as the clients of Hugging Face read them."""

from collections.abc import Mapping
from http import HTTPStatus

from api.delivery.protocol_errors import RenderedError, status_elsewhere
from api.intake.openapi_bodies import CODE, FLAG, TEXT, object_schema
from api.problems import Problem

#: A repeated call waits these out. The client for JavaScript repeats every 503 at once, without end.
_REPEATABLE = frozenset({"not-finished", "model-loading"})
SCHEMA = object_schema({"error": TEXT, "code": CODE, "retryable": FLAG}, ["error", "code"])


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    body = {"error": problem.detail, "code": problem.code, "retryable": problem.retryable}
    # A header is one line of Latin-1.
    message = " ".join(problem.detail.split()).encode("ascii", "replace").decode()
    status = status_elsewhere(problem)
    if status == HTTPStatus.SERVICE_UNAVAILABLE and problem.code not in _REPEATABLE:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    return RenderedError(status, body, {"X-Error-Message": message})
