"""The calls that make images: submit, wait, hand over."""

import asyncio
import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from api.delivery.events import Listener, patiently, read, until_done
from api.delivery.image_files import is_known
from api.intake.admission import IdempotencyDep, IdempotencyScope, admit, draft, withdraw
from api.intake.submissions import Submission, form_body, image_submission, json_body, json_submission
from api.native.images import serve_image
from api.problems import about, documented, failed_job
from api.services import Services, ServicesDep
from shared.errors import ImageNotFound, InvalidTransition, NotAcceptable, StoreUnavailable
from shared.jobs.admission import AdmissionOutcome
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State
from shared.jobs.types import OutputFormat, ResponseFormat
from shared.jobs.views import JobView, job_view

router = APIRouter(tags=["generate"])

CANCEL_SECONDS = 60.0

EXAMPLES = {
    "shortest": {"summary": "Only a prompt", "value": {"prompt": "a red heart on a blue background"}},
    "changed": {
        "summary": "From an image, the smallest there is",
        "value": {
            "prompt": "a red heart on a blue background",
            "image": "data:image/png;base64,"
            "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR42mM8IafBwMAAAAX0ARC3QJRhAAAAAElFTkSuQmCC",
            "strength": 0.6,
        },
    },
    "reproducible": {
        "summary": "The same image every time",
        "value": {"prompt": "a yellow star", "seed": 42, "num_inference_steps": 20, "label": "star-42"},
    },
}
SUBMIT_PROBLEMS = documented(
    "unauthorized",
    "forbidden",
    "invalid-request",
    "invalid-image",
    "unsupported-media-type",
    "payload-too-large",
    "idempotency-mismatch",
    "rate-limited",
    "queue-full",
    "storage-full",
    "storage-unavailable",
    "backend-unavailable",
    "store-unavailable",
)
FAILURES = documented(
    "invalid-request",
    "invalid-image",
    "not-acceptable",
    "image-not-found",
    "out-of-memory",
    "invalid-output",
    "deadline-passed",
    "timed-out",
    "worker-lost",
    "storage-full",
    "storage-unavailable",
    "content-rejected",
    "upstream-rejected",
    "upstream-out-of-credits",
    "upstream-unavailable",
    "internal-error",
)

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The finished job, or with `Accept: image/*` the bytes of its first image",
        "content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}},
    },
    202: {"description": "Not finished in time: the job goes on at `Location`", "model": JobView},
    **SUBMIT_PROBLEMS,
    **FAILURES,
}

Accept = Annotated[str, Header(description="`image/*` answers the bytes of the image")]
Prefer = Annotated[str, Header(description="`wait=N`: answer 202 after N seconds", examples=["wait=30"])]
Leaving = Literal["keep", "cancel"]
OnDisconnect = Annotated[Leaving, Query(description="What becomes of the job if you leave")]


@dataclass(frozen=True)
class AnswerPreferences:
    """How a caller wants to be answered."""

    accept: str
    prefer: str
    on_disconnect: Leaving


async def _wish(accept: Accept = "*/*", prefer: Prefer = "", on_disconnect: OnDisconnect = "keep") -> AnswerPreferences:
    return AnswerPreferences(accept, prefer, on_disconnect)


AnswerPreferencesDep = Annotated[AnswerPreferences, Depends(_wish)]


@router.post("/api/txt2img", response_model=JobView, responses=RESPONSES, openapi_extra=json_body(EXAMPLES))
async def txt2img(
    http: Request, services: ServicesDep, repetition: IdempotencyDep, wish: AnswerPreferencesDep
) -> Response:
    """Make images and wait for them."""
    async with json_submission(http, services) as submission:
        return await _made(http, services, submission, repetition, wish)


@router.post("/api/img2img", response_model=JobView, responses=RESPONSES, openapi_extra=form_body())
async def img2img(
    http: Request, services: ServicesDep, repetition: IdempotencyDep, wish: AnswerPreferencesDep
) -> Response:
    """Make images from an image and wait for them.

    The image is the file part `image` of a form, several are several such parts; `mask` is another. The other fields
    are parts of the form or parameters of the query. JSON as for `/api/txt2img` is taken as well.
    """
    async with image_submission(http, services) as submission:
        return await _made(http, services, submission, repetition, wish)


async def _made(
    http: Request, services: Services, submission: Submission, repetition: IdempotencyScope, wish: AnswerPreferences
) -> Response:
    wants_bytes, request = negotiate(wish.accept, submission.request)
    base_url, size = services.base_url(http), submission.uploads.size(request)
    job, expected_ms = await draft(services, repetition.caller, request, base_url, size)
    budget = wait_seconds(wish.prefer, services.settings.sync_timeout_seconds)
    with ExitStack() as listening:
        # From before it is accepted: then nothing of it can be missed, and its record is read once, at its end.
        listener = listening.enter_context(services.hub.listen(job.id))
        admission = await admit(services, job, expected_ms, repetition.of(request), submission.uploads)
        on_disconnect = wish.on_disconnect
        if admission.outcome is not AdmissionOutcome.CREATED:
            listener = listening.enter_context(services.hub.listen(admission.job_id))
            # It may have ended before anybody listened, and somebody else may wait for it too.
            listener.tell(None)
            on_disconnect = "keep"
        snapshot = await _outcome(services, http, listener, admission.job_id, budget, on_disconnect)
    about(http, admission.job_id)
    if snapshot is None:
        return await handed_over(services, http, JobSnapshot(job), admission.job_id)
    return await _finished(services, http, snapshot, wants_bytes)


def wait_seconds(prefer: str, longest: int) -> int:
    """From `Prefer: wait=N` (RFC 7240), never above the operator's own limit."""
    wished = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})", prefer)
    return min(int(wished.group(1)), longest) if wished else longest


def negotiate(accept: str, request: GenerationRequest) -> tuple[bool, GenerationRequest]:
    """Whether the answer is the image itself, and the request in the format that the caller can read.

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


async def _outcome(
    services: Services, http: Request, listener: Listener, job_id: str, seconds: int, on_disconnect: Leaving
) -> JobSnapshot | None:
    """The finished job, or None when time is up, the caller has left or this process ends: the job goes on."""
    waiting = asyncio.ensure_future(until_done(services.store, services.jobs, listener, job_id))
    leaving = asyncio.ensure_future(_gone(http))
    closing = asyncio.ensure_future(services.hub.closing.wait())
    try:
        await asyncio.wait({waiting, leaving, closing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if leaving.done() and on_disconnect == "cancel":
            await _cancel(services, job_id)
        return None
    finally:
        for task in (waiting, leaving, closing):
            task.cancel()


async def _cancel(services: Services, job_id: str) -> None:
    """For a caller that is gone, and so cannot ask again: repeated while the store is away, for a time."""
    with suppress(InvalidTransition, TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await patiently(lambda: withdraw(services, job_id))


async def _gone(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def handed_over(services: Services, http: Request, drafted: JobSnapshot, job_id: str) -> Response:
    """202: where the job is to be found. It was accepted, so a store that has gone away since is no problem."""
    snapshot = replace(drafted, job=drafted.job.model_copy(update={"id": job_id}))
    with suppress(StoreUnavailable):
        snapshot = await read(services.store, services.jobs, job_id)
    return await handed_over_as(services, http, snapshot)


async def handed_over_as(services: Services, http: Request, snapshot: JobSnapshot) -> Response:
    job_id = snapshot.job.id
    headers = {"Location": (await services.links(http)).job(job_id), "X-Job-Id": job_id}
    return Response((await view(services, http, snapshot)).model_dump_json(), 202, headers, "application/json")


async def _finished(services: Services, http: Request, snapshot: JobSnapshot, wants_bytes: bool) -> Response:
    job = snapshot.job
    headers = {"X-Job-Id": job.id}
    if job.error is not None:
        return failed_job(job.error, headers)
    if wants_bytes and job.state is State.CANCELLED:
        raise ImageNotFound("The job was cancelled; it has no image.")
    if wants_bytes:
        # One that is withheld has no bytes; a job of which all are has failed.
        first = next(image for image in job.images if not image.flagged)
        return await serve_image(services.images, job, first, http)
    return await job_answer(services, http, snapshot)


async def job_answer(services: Services, http: Request, snapshot: JobSnapshot) -> Response:
    """200: the job, with its images in it where the request asked for that. 304 for a client that has it so already."""
    job = snapshot.job
    shown = await view(services, http, snapshot)
    inline = job.request.response_format is ResponseFormat.B64_JSON
    images = await services.inline.present(job) if inline else []
    body, headers = shown.model_dump_json().encode(), {"X-Job-Id": job.id}
    if job.state.is_terminal:
        # Images never change; all else is in the body. A file may be gone.
        present = " ".join(str(image.index) for image in images)
        headers["ETag"] = f'"{sha256(body + present.encode()).hexdigest()}"'
        if is_known(headers["ETag"], http):
            return Response(status_code=304, headers=headers)
    if images:
        return services.inline.answer(job, shown, images, headers)
    return Response(body, headers=headers, media_type="application/json")


async def view(services: Services, http: Request, snapshot: JobSnapshot) -> JobView:
    """The job as clients see it, with an estimate of its wait while it is queued."""
    return job_view(snapshot, await services.links(http), wait=await estimated_wait(services, snapshot))


async def estimated_wait(services: Services, snapshot: JobSnapshot) -> float | None:
    """Seconds until a queued job starts, None for any other and while Redis is away."""
    if snapshot.queue_position is None:
        return None
    try:
        fleet = await services.watch.fleet()
    except StoreUnavailable:
        return None
    return fleet.wait_seconds(snapshot.job.backend, snapshot.work_ahead_ms)
