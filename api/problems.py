"""Answers errors as RFC 9457 problem details, and maps error codes to HTTP statuses."""

import itertools
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPMethod, HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api.field_errors import describe_error, summarize
from shared import errors
from shared.errors import (
    AcceptanceUnconfirmed,
    FieldError,
    ImagegenError,
    InvalidRequest,
    ModelUnavailable,
    NotFinished,
    RangeNotSatisfiable,
    RequestError,
    Unauthorized,
)
from shared.jobs.job import JobError

logger = logging.getLogger(__name__)

STATUS: Mapping[str, int] = {
    "invalid-request": 422,
    "malformed-request": 400,
    "request-timed-out": 408,
    "headers-too-large": 431,
    "misdirected-request": 421,
    "unauthorized": 401,
    "forbidden": 403,
    "unsupported-media-type": 415,
    "payload-too-large": 413,
    "not-acceptable": 406,
    "not-found": 404,
    "method-not-allowed": 405,
    "job-not-found": 404,
    "image-not-found": 404,
    "range-not-satisfiable": 416,
    "webhook-not-found": 404,
    "model-not-found": 404,
    "licence-forbidden": 403,
    "invalid-transition": 409,
    "idempotency-mismatch": 422,
    "not-finished": 503,
    "rate-limited": 429,
    "queue-full": 429,
    "too-many-connections": 503,
    "backend-unavailable": 503,
    "model-unavailable": 503,
    "model-loading": 503,
    "store-unavailable": 503,
    "invalid-image": 422,
    "out-of-memory": 507,
    "invalid-output": 502,
    "deadline-passed": 504,
    "timed-out": 504,
    "worker-lost": 503,
    "storage-full": 507,
    "storage-unavailable": 503,
    "content-rejected": 422,
    "upstream-rejected": 502,
    "upstream-out-of-credits": 402,
    "upstream-unavailable": 503,
    "internal-error": 500,
}

PROBLEM_MEDIA_TYPE = "application/problem+json"
#: A refused body up to this size is still read, because a client may read no answer before it has sent its body.
SMALL_BODY_BYTES = 64 * 1024
#: Fields that one answer names, so that it stays small whatever was sent.
MAX_FIELDS = 8


class FieldProblem(BaseModel):
    pointer: str = Field(description="JSON pointer to the field", examples=["/width"])
    detail: str = Field(examples=["must be a multiple of 8 between 64 and 1024"])


class Problem(BaseModel):
    """RFC 9457 problem details, sent as application/problem+json."""

    type: str = Field(examples=["urn:imagegen:problem:invalid-request"])
    title: str = Field(examples=["Invalid request"])
    status: int = Field(examples=[422])
    detail: str = Field(
        examples=["The starter model cannot make this image: width must be a multiple of 8 between 64 and 256."]
    )
    code: str = Field(description="Stable name of the error", examples=["invalid-request"])
    retryable: bool = Field(description="Whether the same request may succeed later", examples=[False])
    errors: list[FieldProblem] = Field(default_factory=list, description="The wrong fields")
    job_id: str | None = Field(
        default=None,
        exclude_if=lambda job_id: job_id is None,
        description="Only for not-finished and store-unavailable: the job; for store-unavailable, it may not exist",
    )


def problem_responses(*codes: str) -> dict[int | str, dict[str, object]]:
    """The `responses` of a route that may answer with these problems."""
    media = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUS[code], []).append(code)
    return {status: {"description": ", ".join(names), "content": media} for status, names in by_status.items()}


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    body = problem.model_dump_json()
    return Response(body, problem.status, media_type=PROBLEM_MEDIA_TYPE, headers=dict(headers or {}))


def new_problem(
    code: str, detail: str, *, retryable: bool = False, fields: Sequence[FieldError] = (), job_id: str | None = None
) -> Problem:
    return Problem(
        type=f"urn:imagegen:problem:{code}",
        title=code.replace("-", " ").capitalize(),
        status=STATUS[code],
        detail=detail,
        code=code,
        retryable=retryable,
        errors=[FieldProblem(pointer=field.pointer, detail=field.detail) for field in fields],
        job_id=job_id,
    )


def problem_of(error: ImagegenError) -> Problem:
    """The problem that an error is answered with."""
    fields, detail = error.errors, error.detail
    if fields:
        detail = summarize("" if detail == type(error).__doc__ else detail, fields)
    job_id = error.job_id if isinstance(error, AcceptanceUnconfirmed | NotFinished) else None
    return new_problem(error.code, detail, retryable=error.retryable, fields=fields, job_id=job_id)


def failed_job_response(error: JobError, headers: Mapping[str, str]) -> Response:
    """The answer of a synchronous call whose job failed."""
    if error.code == ModelUnavailable.code:
        headers = {**headers, "Retry-After": str(ModelUnavailable.retry_after)}
    return problem_response(failed_job_problem(error), headers)


def failed_job_problem(error: JobError) -> Problem:
    return new_problem(error.code, error.detail, retryable=error.retryable)


def set_job_id(request: Request, job_id: str) -> None:
    """From now on a problem with this request names the job in X-Job-Id."""
    request.state.job_id = job_id


def set_field_names(request: Request, names: Mapping[str, str]) -> None:
    """From now on a problem with fields of this request has these names for ours."""
    request.scope["state"]["field_names"] = names


def install(app: FastAPI) -> None:
    app.add_exception_handler(ImagegenError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


# Starlette chooses handlers by the class of the error, which their types cannot say.
async def _on_error(request: Request, error: Any) -> Response:
    return error_response(error, {"X-Job-Id": request.state.job_id} if hasattr(request.state, "job_id") else {})


def error_response(error: ImagegenError, headers: Mapping[str, str]) -> Response:
    """The answer to an error, with the headers that belong to it."""
    headers = dict(headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="imagegen", Basic realm="imagegen"'
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    if isinstance(error, AcceptanceUnconfirmed | NotFinished):
        headers["X-Job-Id"] = error.job_id
    return problem_response(problem_of(error), headers)


def early_error_response(error: RequestError, headers: Headers) -> Response:
    """The answer to a request whose body was not read. A large body is not read at all: the connection closes."""
    length = headers.get("content-length", "0")
    is_small = (
        "transfer-encoding" not in headers and length.isdigit() and len(length) < 9 and int(length) <= SMALL_BODY_BYTES
    )
    return error_response(error, {} if is_small else {"Connection": "close"})


async def _on_validation_error(_: Request, error: Any) -> Response:
    """Name the wrong fields without quoting what was sent."""
    return problem_response(problem_of(invalid_request(error)))


def invalid_request(error: RequestValidationError) -> InvalidRequest:
    """The same error, explained in words for callers."""
    problems = error.errors()[:MAX_FIELDS]
    return InvalidRequest(errors=[FieldError(_pointer(problem), describe_error(problem)) for problem in problems])


async def _on_http_exception(request: Request, error: Any) -> Response:
    known: dict[int, type[RequestError]] = {
        HTTPStatus.NOT_FOUND: errors.NotFound,
        HTTPStatus.METHOD_NOT_ALLOWED: errors.MethodNotAllowed,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: errors.PayloadTooLarge,
        HTTPStatus.REQUEST_TIMEOUT: errors.RequestTimedOut,
    }
    allowed = {}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = {"Allow": ", ".join([*_methods(request), HTTPMethod.OPTIONS])}
        if request.method == HTTPMethod.OPTIONS:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
    answer = await _on_error(request, known.get(error.status_code, InvalidRequest)())
    answer.headers.update({**(error.headers or {}), **allowed})
    return answer


def _methods(request: Request) -> Iterator[str]:
    """The methods of all routes with this path. Starlette names only those of the first one."""
    for method in HTTPMethod:
        scope = {**request.scope, "method": method.value}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            yield method.value


async def _on_bug(request: Request, error: Exception) -> Response:
    job = {"job_id": request.state.job_id} if hasattr(request.state, "job_id") else {}
    logger.error("unexpected error in %s %s", request.method, request.url.path, exc_info=error, extra=job)
    return problem_response(new_problem(errors.InternalError.code, "An unexpected error occurred; it is in the log."))


def _pointer(problem: Mapping[str, Any]) -> str:
    """The JSON pointer (RFC 6901) to the field, and to the entry of a list in it.

    The first part of pydantic's location names a part of the HTTP request. The name of an unknown field is text of
    the caller, and is returned only if it could be a misspelt name.
    """
    location = [] if problem["type"] == "json_invalid" else list(problem["loc"][1:4])
    # Inside anything but a list, a location is text of the caller or the name of one of several schemas.
    in_list = len(location) > 1 and isinstance(location[1], int)
    return json_pointer(location if in_list else location[:1])


def json_pointer(location: Iterable[object]) -> str:
    """A pointer that ends before the first part that could be free text of the caller."""
    names = itertools.takewhile(re.compile(r"\w{1,32}", re.ASCII).fullmatch, map(str, location))
    return "".join(f"/{part}" for part in names)
