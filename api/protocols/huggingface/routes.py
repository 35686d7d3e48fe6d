"""The route of Hugging Face's inference API: a model's address takes a prompt or an image, and answers an image."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from api.delivery.answers import result_response
from api.delivery.negotiation import negotiate
from api.delivery.waiting import wait_for_result
from api.intake.idempotency import IdempotencyDep
from api.intake.submissions import translated_submission
from api.protocols.huggingface.openapi import ANSWER, REQUEST
from api.protocols.huggingface.translation import translate
from api.protocols.model_names import ModelNames
from api.services import ServicesDep
from shared.jobs.types import ApiProtocol

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
) -> Response:
    """Generate an image from a prompt, or from an image and a prompt. The answer is the bytes of the image.

    A body that is an image itself is varied without a prompt.
    """
    chosen = (await ModelNames.read(services)).fields(model)

    def to_fields(body: dict[str, Any]) -> Any:
        return translate(body, chosen)

    async with translated_submission(http, services, ApiProtocol.HUGGINGFACE, to_fields, "inputs") as submission:
        _, request = negotiate(accept, submission.request)
        snapshot = await wait_for_result(http, services, replace(submission, request=request), idempotency)
    return await result_response(services, http, snapshot, as_image=True)
