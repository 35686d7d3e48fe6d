"""The routes that generate images and wait for them."""

from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from api.delivery.answers import accepted_response, result_response
from api.delivery.negotiation import accepts_json, negotiate, wait_seconds
from api.delivery.waiting import OnDisconnect, not_finished, submit_and_wait
from api.intake.idempotency import IdempotencyDep
from api.intake.openapi_bodies import form_request_body, json_request_body
from api.intake.submissions import ENLARGEMENT, Submission, image_submission, json_submission
from api.problems import problem_responses
from api.services import ServicesDep
from shared.jobs.views import JobView

router = APIRouter(tags=["generate"])

UPSCALE_DEFAULTS = {"prompt": ENLARGEMENT, "model": "upscale-starter"}
EXAMPLES = {
    "shortest": {"summary": "Only a prompt", "value": {"prompt": "a red heart on a blue background"}},
    "changed": {
        "summary": "From an image (here the smallest possible one)",
        "value": {
            "prompt": "a red heart on a blue background",
            "image": "data:image/png;base64,"
            "iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR42mM8IafBwMAAAAX0ARC3QJRhAAAAAElFTkSuQmCC",
            "strength": 0.6,
        },
    },
    "reproducible": {
        "summary": "Reproducible with a seed",
        "value": {"prompt": "a yellow star", "seed": 42, "num_inference_steps": 20, "label": "star-42"},
    },
}
SUBMIT_PROBLEMS = problem_responses(
    "forbidden",
    "invalid-request",
    "invalid-image",
    "unsupported-media-type",
    "payload-too-large",
    "model-not-found",
    "licence-forbidden",
    "idempotency-mismatch",
    "queue-full",
    "storage-full",
    "storage-unavailable",
    "backend-unavailable",
    "model-unavailable",
)
JOB_PROBLEMS = problem_responses(
    "invalid-request",
    "invalid-image",
    "not-acceptable",
    "not-finished",
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

GENERATION_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The finished job, or with `Accept: image/*` the bytes of its first image",
        "content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}},
    },
    202: {"description": "Not finished in time; the job continues, and `Location` has its address", "model": JobView},
    **SUBMIT_PROBLEMS,
    **JOB_PROBLEMS,
}

#: Not described: OpenAPI ignores a parameter of this name, and lists the media types of answers instead.
Accept = Annotated[str, Header(include_in_schema=False)]
Prefer = Annotated[
    str, Header(description="`wait=N`: return 202 if the job takes longer than N seconds", examples=["wait=30"])
]


@dataclass(frozen=True)
class AnswerPreferences:
    """The answer that a caller wants."""

    accept: str
    prefer: str
    on_disconnect: OnDisconnect


async def _preferences(
    accept: Accept = "*/*",
    prefer: Prefer = "",
    on_disconnect: Annotated[OnDisconnect, Query(description="Whether to cancel the job if you disconnect")] = "keep",
) -> AnswerPreferences:
    return AnswerPreferences(accept, prefer, on_disconnect)


AnswerPreferencesDep = Annotated[AnswerPreferences, Depends(_preferences)]


@router.post(
    "/api/txt2img",
    operation_id="textToImage",
    response_model=JobView,
    responses=GENERATION_RESPONSES,
    openapi_extra=json_request_body(EXAMPLES),
)
async def text_to_image(
    http: Request, services: ServicesDep, idempotency: IdempotencyDep, preferences: AnswerPreferencesDep
) -> Response:
    """Generate images from a prompt and wait for them."""
    async with json_submission(http, services, idempotency) as submission:
        return await _generate(submission, preferences)


@router.post(
    "/api/img2img",
    operation_id="imageToImage",
    response_model=JobView,
    responses=GENERATION_RESPONSES,
    openapi_extra=form_request_body(),
)
async def image_to_image(
    http: Request, services: ServicesDep, idempotency: IdempotencyDep, preferences: AnswerPreferencesDep
) -> Response:
    """Generate images from an image and wait for them.

    The body is a form: each file part `image` is an input image, and the file part `mask` is the mask. All other
    fields are parts of the form or parameters of the query. JSON as for `/api/txt2img` is accepted too.
    """
    async with image_submission(http, services, idempotency) as submission:
        return await _generate(submission, preferences)


@router.post(
    "/api/upscale",
    operation_id="upscaleImage",
    response_model=JobView,
    responses=GENERATION_RESPONSES,
    openapi_extra=form_request_body(required=("image",)),
)
async def upscale_image(
    http: Request, services: ServicesDep, idempotency: IdempotencyDep, preferences: AnswerPreferencesDep
) -> Response:
    """Enlarge an image and wait for it.

    The body is that of `/api/img2img`. `model` is an upscaler from GET /api/models, by default the bundled one. Without
    width and height the image becomes four times as large, within the limits. Its transparency is kept.
    """
    async with image_submission(http, services, idempotency, UPSCALE_DEFAULTS) as submission:
        return await _generate(submission, preferences)


async def _generate(submission: Submission, preferences: AnswerPreferences) -> Response:
    http, services = submission.http, submission.services
    as_image, request = negotiate(preferences.accept, submission.request)
    submission = replace(submission, request=request)
    seconds = wait_seconds(preferences.prefer, services.settings.sync_timeout_seconds)
    snapshot = await submit_and_wait(submission, seconds, preferences.on_disconnect)
    if snapshot.job.state.is_terminal:
        return await result_response(services, http, snapshot, as_image=as_image)
    if accepts_json(preferences.accept):
        return await accepted_response(services, http, snapshot)
    raise await not_finished(submission, snapshot.job.id)
