"""The routes of Replicate's API that make and follow predictions."""

from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.delivery.events import event_stream
from api.delivery.negotiation import wait_seconds
from api.delivery.stream_limit import StreamSlot
from api.delivery.waiting import submit_and_wait
from api.edge.authentication import CallerDep, charge
from api.intake.admission import cancel_job
from api.intake.idempotency import IdempotencyDep, IdempotencyScope
from api.intake.submissions import translated_submission
from api.protocols.model_names import ModelNames
from api.protocols.replicate.openapi import prediction_answer, prediction_body
from api.protocols.replicate.predictions import prediction_object, prediction_response
from api.protocols.replicate.streaming import prediction_events
from api.protocols.replicate.translation import translate
from api.services import Services, ServicesDep
from shared.errors import Forbidden, InvalidTransition, NotFound
from shared.jobs.snapshots import JobFilter
from shared.jobs.types import ApiProtocol

router = APIRouter()
#: With `Prefer: wait`, clients stop reading after 60 seconds.
MAX_WAIT_SECONDS = 60
PAGE_SIZE = 100
#: What a page costs, as GET /api/jobs counts it.
PAGE_COST = 4
Prefer = Annotated[str, Header(description="`wait` or `wait=N`: wait up to N seconds for the end")]


@router.post(
    "/v1/predictions",
    operation_id="replicateCreatePrediction",
    status_code=201,
    responses=prediction_answer(201),
    openapi_extra=prediction_body(needs_version=True),
    response_class=Response,
)
async def create_prediction(
    http: Request, services: ServicesDep, idempotency: IdempotencyDep, prefer: Prefer = ""
) -> Response:
    """Make images with the model or the version in the body."""
    return await _create(http, services, idempotency, prefer, None)


@router.post(
    "/v1/models/{owner}/{name}/predictions",
    operation_id="replicateCreateModelPrediction",
    status_code=201,
    responses=prediction_answer(201),
    openapi_extra=prediction_body(needs_version=False),
    response_class=Response,
)
async def create_model_prediction(
    http: Request, services: ServicesDep, idempotency: IdempotencyDep, owner: str, name: str, prefer: Prefer = ""
) -> Response:
    """Make images with the model in the path."""
    return await _create(http, services, idempotency, prefer, f"{owner}/{name}")


async def _create(
    http: Request, services: Services, scope: IdempotencyScope, prefer: str, path: str | None
) -> Response:
    to_fields = partial(translate, await ModelNames.read(services), path)
    waits = "wait" in prefer
    seconds = wait_seconds(prefer, MAX_WAIT_SECONDS) if waits else 0
    async with translated_submission(http, services, scope, ApiProtocol.REPLICATE, to_fields) as submission:
        snapshot = await submit_and_wait(submission, seconds)
    # Clients that wait take every other status for the end.
    return await prediction_response(services, http, snapshot, 201, pending="starting")


@router.get("/v1/predictions", operation_id="replicateListPredictions")
async def list_predictions(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f-]{36}$")] = None,
) -> dict[str, Any]:
    """All jobs, newest first, also those of other protocols."""
    await charge(http, PAGE_COST)
    wanted = JobFilter(owner=caller.visible_owner)
    page = await services.store.run(services.jobs.list_page(wanted, PAGE_SIZE, cursor))
    links = await services.links(http)
    following = f"{links.base_url}/v1/predictions?cursor={page.cursor}" if page.cursor else None
    results = [prediction_object(snapshot, links) for snapshot in page.jobs]
    return {"results": results, "next": following, "previous": None}


@router.get(
    "/v1/predictions/{job_id}",
    operation_id="replicateGetPrediction",
    responses=prediction_answer(),
    response_class=Response,
)
async def get_prediction(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """A job as a prediction."""
    return await prediction_response(services, http, await services.find_job(http, caller, job_id))


@router.post(
    "/v1/predictions/{job_id}/cancel",
    operation_id="replicateCancelPrediction",
    responses=prediction_answer(),
    response_class=Response,
)
async def cancel_prediction(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Cancel a job; one that has ended stays as it is."""
    snapshot = await services.find_job(http, caller, job_id)
    with suppress(InvalidTransition):
        snapshot = await cancel_job(services, job_id)
    return await prediction_response(services, http, snapshot)


@router.get(
    "/v1/predictions/{job_id}/stream",
    operation_id="replicateStreamPrediction",
    dependencies=[StreamSlot],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def stream_prediction(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Follow a job through Server-Sent Events: `logs`, `output`, `error` and `done`."""
    await services.find_job(http, caller, job_id)
    return event_stream(prediction_events(services, job_id, await services.links(http)), {"X-Job-Id": job_id})


@router.get("/v1/webhooks/default/secret", operation_id="replicateWebhookSecret")
async def get_webhook_secret(services: ServicesDep, caller: CallerDep) -> dict[str, str]:
    """The key that webhooks are signed with; only for the scope admin, because it signs those of all keys."""
    if not (caller.may_administer and services.settings.api_key):
        raise Forbidden("The signing secret needs an API key with the scope admin.")
    if services.settings.webhook_secret is None:
        raise NotFound("SD_WEBHOOK_SECRET is empty: webhooks are not signed.")
    return {"key": services.settings.webhook_secret.get_secret_value().split(",")[0].strip()}
