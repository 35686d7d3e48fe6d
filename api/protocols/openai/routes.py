"""The routes of the OpenAI API that make images."""

from contextlib import AsyncExitStack

from fastapi import APIRouter, Request, Response

from api.delivery.events import event_stream
from api.delivery.stream_limit import ExitsDep
from api.delivery.waiting import submit, wait_for_result
from api.intake.idempotency import IdempotencyDep, IdempotencyScope
from api.intake.submissions import translated_submission
from api.protocols.model_names import ModelNames
from api.protocols.openai.answers import images_response
from api.protocols.openai.openapi import ANSWER, edit_body, generation_body, variation_body
from api.protocols.openai.streaming import JobStream
from api.protocols.openai.translation import Call, ImageCall
from api.services import Services, ServicesDep
from shared.errors import NotFound
from shared.jobs.types import ApiProtocol

router = APIRouter()


@router.post(
    "/v1/images/generations",
    operation_id="openaiGenerateImages",
    responses=ANSWER,
    openapi_extra=generation_body(),
    response_class=Response,
)
async def generate_images(
    http: Request, services: ServicesDep, idempotency: IdempotencyDep, exits: ExitsDep
) -> Response:
    """Generate images from a prompt."""
    return await _answer(http, services, idempotency, exits, Call.GENERATION)


@router.post(
    "/v1/images/edits",
    operation_id="openaiEditImages",
    responses=ANSWER,
    openapi_extra=edit_body(),
    response_class=Response,
)
async def edit_images(http: Request, services: ServicesDep, idempotency: IdempotencyDep, exits: ExitsDep) -> Response:
    """Change images by a prompt, everywhere or where the mask is transparent."""
    return await _answer(http, services, idempotency, exits, Call.EDIT)


@router.post(
    "/v1/images/variations",
    operation_id="openaiVaryImage",
    responses=ANSWER,
    openapi_extra=variation_body(),
    response_class=Response,
)
async def vary_image(http: Request, services: ServicesDep, idempotency: IdempotencyDep, exits: ExitsDep) -> Response:
    """Make variations of an image."""
    return await _answer(http, services, idempotency, exits, Call.VARIATION)


@router.get("/models", include_in_schema=False)
@router.post("/images/{call}", include_in_schema=False)
async def explain_base_url() -> None:
    """Of the error for other unknown paths, clients show the status alone."""
    raise NotFound("The base URL of OpenAI's clients ends in /v1 here.")


async def _answer(
    http: Request, services: Services, scope: IdempotencyScope, exits: AsyncExitStack, kind: Call
) -> Response:
    call = ImageCall(kind, await ModelNames.read(services))
    async with translated_submission(http, services, scope, ApiProtocol.OPENAI, call.translate) as submission:
        if not call.parameters.stream:
            snapshot = await wait_for_result(submission)
            return await images_response(services, http, snapshot, call.parameters)
        exits.enter_context(services.stream_limit.slot(scope.caller.client_id))
        submitted = await submit(submission, exits)
    headers = {"X-Job-Id": submitted.job_id, "x-request-id": submitted.job_id}
    return event_stream(JobStream(services, call, submitted).events(), headers)
