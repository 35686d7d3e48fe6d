"""The calls that make images: submit, wait, hand over."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from api.delivery.answers import accepted_response, result_response
from api.delivery.negotiation import negotiate, wait_seconds
from api.delivery.waiting import OnDisconnect, submit_and_wait
from api.intake.admission import IdempotencyDep, IdempotencyScope
from api.intake.submissions import Submission, form_body, image_submission, json_body, json_submission
from api.problems import problem_responses
from api.services import Services, ServicesDep
from shared.jobs.views import JobView

router = APIRouter(tags=["generate"])

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
SUBMIT_PROBLEMS = problem_responses(
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
FAILURES = problem_responses(
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


@dataclass(frozen=True)
class AnswerPreferences:
    """How a caller wants to be answered."""

    accept: str
    prefer: str
    on_disconnect: OnDisconnect


async def _preferences(
    accept: Accept = "*/*",
    prefer: Prefer = "",
    on_disconnect: Annotated[OnDisconnect, Query(description="What becomes of the job if you leave")] = "keep",
) -> AnswerPreferences:
    return AnswerPreferences(accept, prefer, on_disconnect)


AnswerPreferencesDep = Annotated[AnswerPreferences, Depends(_preferences)]


@router.post("/api/txt2img", response_model=JobView, responses=RESPONSES, openapi_extra=json_body(EXAMPLES))
async def txt2img(
    http: Request, services: ServicesDep, repetition: IdempotencyDep, preferences: AnswerPreferencesDep
) -> Response:
    """Make images and wait for them."""
    async with json_submission(http, services) as submission:
        return await _generate(http, services, submission, repetition, preferences)


@router.post("/api/img2img", response_model=JobView, responses=RESPONSES, openapi_extra=form_body())
async def img2img(
    http: Request, services: ServicesDep, repetition: IdempotencyDep, preferences: AnswerPreferencesDep
) -> Response:
    """Make images from an image and wait for them.

    The image is the file part `image` of a form, several are several such parts; `mask` is another. The other fields
    are parts of the form or parameters of the query. JSON as for `/api/txt2img` is taken as well.
    """
    async with image_submission(http, services) as submission:
        return await _generate(http, services, submission, repetition, preferences)


async def _generate(
    http: Request,
    services: Services,
    submission: Submission,
    repetition: IdempotencyScope,
    preferences: AnswerPreferences,
) -> Response:
    as_image, request = negotiate(preferences.accept, submission.request)
    seconds = wait_seconds(preferences.prefer, services.settings.sync_timeout_seconds)
    snapshot = await submit_and_wait(
        http, services, request, submission.uploads, repetition, seconds, preferences.on_disconnect
    )
    if not snapshot.job.state.is_terminal:
        return await accepted_response(services, http, snapshot)
    return await result_response(services, http, snapshot, as_image=as_image)
