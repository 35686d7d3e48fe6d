"""The calls that make pictures: submit, wait, hand over."""

import asyncio
import re
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Request, Response

from api.bodies import JsonRoute
from api.events import read, until_done
from api.images import pictures_of, serve_picture
from api.problems import about, documented, failed_job
from api.services import Services, ServicesDep
from api.views import JobView, job_path, job_view
from shared.errors import BackendUnavailable, ImageNotFound, NotAcceptable, QueueFull, StoreUnavailable
from shared.jobs import JobSnapshot
from shared.schemas import Backend, GenerationRequest, Job, OutputFormat, ResponseFormat
from shared.states import State

router = APIRouter(tags=["generate"], route_class=JsonRoute)

EXAMPLES = {
    "shortest": {"summary": "Only a prompt", "value": {"prompt": "a red heart on a blue background"}},
    "reproducible": {
        "summary": "The same picture every time",
        "value": {"prompt": "a yellow star", "seed": 42, "num_inference_steps": 20, "label": "star-42"},
    },
}
SUBMIT_PROBLEMS = documented(
    "invalid-request",
    "unsupported-media-type",
    "length-required",
    "payload-too-large",
    "queue-full",
    "backend-unavailable",
    "store-unavailable",
)
FAILURES = documented(
    "not-acceptable",
    "image-not-found",
    "out-of-memory",
    "invalid-output",
    "deadline-passed",
    "timed-out",
    "worker-lost",
    "storage-full",
    "internal-error",
)

RequestBody = Annotated[GenerationRequest, Body(openapi_examples=EXAMPLES)]


@router.post(
    "/api/txt2img",
    response_model=JobView,
    responses={
        200: {
            "description": "The finished job, or with `Accept: image/*` the bytes of its first picture",
            "content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}},
        },
        202: {"description": "Not finished in time: the job goes on at `Location`", "model": JobView},
        **SUBMIT_PROBLEMS,
        **{status: FAILURES[status] for status in FAILURES if status not in SUBMIT_PROBLEMS},
    },
)
async def txt2img(
    http: Request,
    services: ServicesDep,
    request: RequestBody,
    accept: Annotated[str, Header(description="`image/*` answers the bytes of the picture")] = "*/*",
    prefer: Annotated[str, Header(description="`wait=N`: answer 202 after N seconds", examples=["wait=30"])] = "",
) -> Response:
    """Make pictures and wait for them."""
    wants_bytes, request = negotiate(accept, request)
    backend = await choose_backend(services, request)
    job = Job.new(request, backend, datetime.now(UTC))
    with services.hub.listen(job.id) as listener:
        await enqueue(services, job)
        work = until_done(services.store, services.jobs, listener, job.id)
        budget = wait_seconds(prefer, services.settings.sync_timeout_seconds)
        snapshot = await _first_of(work, http, budget)
    about(http, job)
    if snapshot is None:
        return await handed_over(services, http, job)
    return await _finished(services, http, snapshot, wants_bytes)


async def choose_backend(services: Services, request: GenerationRequest) -> Backend:
    """Where the request goes, checked against what that backend was last known to do.

    Raises BackendUnavailable where nobody would ever take the job, and InvalidRequest.
    """
    backend = request.backend or services.settings.fallback_backend
    fleet = await services.watch.fleet()
    known = fleet.capabilities.get(backend)
    expected = backend in services.settings.backends
    if backend is Backend.NULL and not expected:
        raise BackendUnavailable("The null backend is switched off; the operator can add it to SD_BACKENDS.")
    if not (expected or known or fleet.of(backend)):
        names = ", ".join(services.settings.backends)
        raise BackendUnavailable(f"No worker serves {backend}; this service has: {names}.")
    if known:
        known.check(request, services.limits)
    else:
        services.limits.check(request)
    return backend


async def enqueue(services: Services, job: Job) -> None:
    """Accept the job: from here on it is not lost. Raises QueueFull and StoreUnavailable."""
    message = services.queue.message(job.id, job.backend, job.request.priority)
    if not await services.store.run(services.jobs.create(job, message, services.settings.max_queued_jobs)):
        raise QueueFull


def wait_seconds(prefer: str, longest: int) -> int:
    """From `Prefer: wait=N` (RFC 7240), never above the operator's own limit."""
    wished = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", prefer)
    return min(int(wished.group(1)), longest) if wished else longest


def negotiate(accept: str, request: GenerationRequest) -> tuple[bool, GenerationRequest]:
    """Whether the answer is the picture itself, and the request in the format that the caller can read.

    Raises NotAcceptable.
    """
    formats = {output.media_type: output for output in OutputFormat}
    asked = request.output_format if "output_format" in request.model_fields_set else None
    for media_type in _by_preference(accept):
        if media_type in ("application/json", "application/*", "*/*", "application/problem+json"):
            return False, request
        if media_type == "image/*":
            return True, request
        if media_type in formats and asked in (None, formats[media_type]):
            return True, request.model_copy(update={"output_format": formats[media_type]})
    raise NotAcceptable


def _by_preference(accept: str) -> list[str]:
    """The media types of an Accept header, best first; those with `q=0` are refused and left out."""
    weights: dict[str, float] = {}
    for part in (accept.strip() or "*/*").split(","):
        media_type, _, parameters = part.strip().lower().partition(";")
        weight = re.search(r"(?:^|;)\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", parameters)
        if media_type:
            weights[media_type.strip()] = float(weight.group(1)) if weight else 1.0
    return sorted((name for name in weights if weights[name]), key=lambda name: -weights[name])


async def _first_of(work: Coroutine[Any, Any, JobSnapshot], http: Request, seconds: int) -> JobSnapshot | None:
    """The finished job, or None when time is up or the caller has left; the job itself goes on in either case."""
    waiting = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({waiting, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        leaving.cancel()


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def handed_over(services: Services, http: Request, job: Job) -> Response:
    """202: where the job is to be found. It was accepted, so a store that has gone away since is no problem."""
    snapshot = JobSnapshot(job)
    with suppress(StoreUnavailable):
        snapshot = await read(services.store, services.jobs, job.id)
    headers = {"Location": job_path(job.id), "X-Job-Id": job.id}
    body = job_view(snapshot, services.base_url(http)).model_dump_json()
    return Response(body, 202, headers=headers, media_type="application/json")


async def _finished(services: Services, http: Request, snapshot: JobSnapshot, wants_bytes: bool) -> Response:
    job = snapshot.job
    headers = {"X-Job-Id": job.id}
    if job.error is not None:
        return failed_job(job.error, headers)
    if wants_bytes and job.state is State.CANCELLED:
        raise ImageNotFound("The job was cancelled; it has no picture.")
    if wants_bytes:
        return serve_picture(services.images, job, job.images[0], http)
    return await job_answer(services, http, snapshot)


async def job_answer(services: Services, http: Request, snapshot: JobSnapshot) -> Response:
    """200: the job, with its pictures in it where the request asked for that."""
    job = snapshot.job
    inline = job.request.response_format is ResponseFormat.B64_JSON
    pictures = await pictures_of(services.images, job) if inline else {}
    body = job_view(snapshot, services.base_url(http), pictures).model_dump_json()
    return Response(body, headers={"X-Job-Id": job.id}, media_type="application/json")
