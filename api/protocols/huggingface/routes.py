"""The route of Hugging Face's inference API: a model's address takes a prompt or an image, and answers an image."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from api.delivery.answers import result_response
from api.delivery.negotiation import negotiate
from api.delivery.waiting import wait_for_result
from api.intake.idempotency import IdempotencyDep
from api.intake.submissions import translated_submission
from api.models.commands import start_load
from api.protocols.huggingface.openapi import ANSWER, REQUEST
from api.protocols.huggingface.translation import translate
from api.protocols.model_names import ModelNames
from api.services import Services, ServicesDep
from shared.errors import ModelLoading
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import ApiProtocol, Backend
from shared.models.catalogue import ModelState

router = APIRouter()


@router.post(
    "/models/{model:path}",
    operation_id="huggingfaceInference",
    responses=ANSWER,
    openapi_extra=REQUEST,
    response_class=Response,
)
async def infer(
    http: Request,
    services: ServicesDep,
    idempotency: IdempotencyDep,
    model: str,
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    x_wait_for_model: Annotated[
        str, Header(description="`false`: answer 503 at once, and load the model, if no worker has it in memory")
    ] = "true",
) -> Response:
    """Generate an image from a prompt, or from an image and a prompt. The answer is the bytes of the image.

    A body that is an image itself is varied without a prompt.
    """
    to_fields = partial(translate, await ModelNames.read(services), model)
    async with translated_submission(
        http, services, idempotency, ApiProtocol.HUGGINGFACE, to_fields, "inputs"
    ) as submission:
        _, request = negotiate(accept, submission.request)
        if x_wait_for_model.strip().lower() in ("false", "0"):
            await _require_loaded(services, request)
        snapshot = await wait_for_result(replace(submission, request=request))
    return await result_response(services, http, snapshot, as_image=True)


async def _require_loaded(services: Services, request: GenerationRequest) -> None:
    """Load the model, and raise ModelLoading, if no worker has it. Raises also all that choosing a model raises."""
    models = await services.models()
    choice = models.choose(request)
    if choice.state is ModelState.LOADED or choice.backend is Backend.FLUX_API:
        return
    if choice.entry is not None:
        await start_load(services.store, models, models.find(choice.entry.name))
    raise ModelLoading
