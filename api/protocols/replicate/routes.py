"""The routes of Replicate's API that make and follow predictions."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.delivery.negotiation import wait_seconds
from api.delivery.waiting import submit_and_wait
from api.edge.authentication import CallerDep, charge
from api.intake.admission import cancel_job
from api.intake.idempotency import IdempotencyDep, IdempotencyScope
from api.intake.submissions import translated_submission
from api.problems import problem_responses, set_job_id
from api.protocols.model_names import ModelNames
from api.protocols.replicate.openapi import prediction_answer, prediction_body
from api.protocols.replicate.predictions import prediction_object, prediction_response
from api.protocols.replicate.streaming import prediction_events
from api.protocols.replicate.translation import PredictionCall
from api.services import Services, ServicesDep
from shared.errors import Forbidden, InvalidTransition, NotFound
from shared.jobs.snapshots import JobFilter, JobSnapshot
from shared.jobs.types import ApiProtocol

router = APIRouter()
#: With `Prefer: wait`, clients stop reading after 60 seconds.
MAX_WAIT_SECONDS = 60
PAGE_SIZE = 100
#: What a page costs, as GET /api/jobs counts it.
PAGE_COST = 4
_FIND = problem_responses("unauthorized", "job-not-found")
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
    call = PredictionCall(await ModelNames.read(services), path)
    waits = "wait" in prefer
    seconds = wait_seconds(prefer, MAX_WAIT_SECONDS) if waits else 0
    async with translated_submission(http, services, ApiProtocol.REPLICATE, call.translate) as submission:
        snapshot = await submit_and_wait(http, services, submission, scope, seconds)
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
    responses={**prediction_answer(), **_FIND},
    response_class=Response,
)
async def get_prediction(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """A job as a prediction."""
    return await prediction_response(services, http, await _find(services, http, caller.visible_owner, job_id))


@router.post(
    "/v1/predictions/{job_id}/cancel",
    operation_id="replicateCancelPrediction",
    responses={**prediction_answer(), **_FIND},
    response_class=Response,
)
async def cancel_prediction(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Cancel a job; one that has ended stays as it is."""
    snapshot = await _find(services, http, caller.visible_owner, job_id)
    with suppress(InvalidTransition):
        snapshot = await cancel_job(services, job_id)
    return await prediction_response(services, http, snapshot)


async def _stream_slot(services: ServicesDep, caller: CallerDep) -> AsyncIterator[None]:
    """Occupied until the stream ends."""
    with services.stream_limit.slot(caller.client_id):
        yield


@router.get(
    "/v1/predictions/{job_id}/stream",
    operation_id="replicateStreamPrediction",
    dependencies=[Depends(_stream_slot)],
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **_FIND},
)
async def stream_prediction(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Follow a job through Server-Sent Events: `logs`, `output`, `error` and `done`."""
    await _find(services, http, caller.visible_owner, job_id)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "X-Job-Id": job_id}
    events = prediction_events(services, job_id, await services.links(http))
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@router.get(
    "/v1/webhooks/default/secret",
    operation_id="replicateWebhookSecret",
    responses=problem_responses("forbidden", "not-found"),
)
async def get_webhook_secret(services: ServicesDep, caller: CallerDep) -> dict[str, str]:
    """The key that webhooks are signed with; only for the scope admin, because it signs those of all keys."""
    if not (caller.may_administer and services.settings.api_key):
        raise Forbidden("The signing secret needs an API key with the scope admin.")
    if services.settings.webhook_secret is None:
        raise NotFound("SD_WEBHOOK_SECRET is empty: webhooks are not signed.")
    return {"key": services.settings.webhook_secret.get_secret_value().split(",")[0].strip()}


async def _find(services: Services, http: Request, owner: str | None, job_id: str) -> JobSnapshot:
    snapshot = await services.read_job(job_id, owner)
    set_job_id(http, job_id)
    return snapshot
