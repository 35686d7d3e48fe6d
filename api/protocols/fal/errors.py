"""Errors as the clients of fal read them."""

from collections.abc import Mapping

from api.delivery.protocol_errors import RenderedError
from api.intake.openapi_bodies import CODE, FLAG, TEXT, object_schema
from api.problems import Problem

SCHEMA = object_schema({"detail": TEXT, "error_type": CODE, "retryable": FLAG}, ["detail", "error_type"])


def render_error(problem: Problem, headers: Mapping[str, str]) -> RenderedError:
    body = {"detail": problem.detail, "error_type": problem.code, "retryable": problem.retryable}
    # Without this header, clients take some errors for those of a proxy.
    added = {"x-fal-request-id": headers.get("x-job-id", "none")}
    return RenderedError(problem.status, body, added)
