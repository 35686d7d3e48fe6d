"""Errors as the clients of Hugging Face read them."""

from collections.abc import Mapping

from api.delivery.protocol_errors import RenderedError, status_elsewhere
from api.intake.openapi_bodies import CODE, FLAG, TEXT, object_schema
from api.problems import Problem

SCHEMA = object_schema({"error": TEXT, "code": CODE, "retryable": FLAG}, ["error", "code"])


def render_error(problem: Problem, _: Mapping[str, str]) -> RenderedError:
    body = {"error": problem.detail, "code": problem.code, "retryable": problem.retryable}
    # A header is one line of Latin-1.
    message = " ".join(problem.detail.split()).encode("ascii", "replace").decode()
    return RenderedError(status_elsewhere(problem), body, {"X-Error-Message": message})
