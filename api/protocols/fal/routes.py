"""The routes of fal's API: its queue below /fal, and calls that wait below /fal/run."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from api.delivery.waiting import submit_and_wait, wait_for_result
from api.edge.authentication import CallerDep
from api.intake.admission import cancel_job
from api.intake.idempotency import IdempotencyDep
from api.intake.submissions import translated_submission
from api.problems import failed_job_response
from api.protocols.fal.openapi import BODY, RESULT
from api.protocols.fal.translation import translate
from api.protocols.model_names import ModelNames
from api.services import Services, ServicesDep
from shared.errors import ImageNotFound, InvalidTransition
from shared.jobs.job import Progress
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State
from shared.jobs.types import ApiProtocol
from shared.protocols import fal
from shared.protocols.replicate import progress_line

router = APIRouter()
#: Part of the address; the id of the job suffices.
AnyModel = Annotated[str, Path(alias="model")]


@router.get("/fal/{model:path}/requests/{job_id}/status", operation_id="falGetStatus")
async def get_status(
    http: Request, services: ServicesDep, caller: CallerDep, _model: AnyModel, job_id: str
) -> Response:
    """Where a request is: in the queue, in progress, or completed."""
    snapshot = await services.find_job(http, caller, job_id)
    status = {**_handle(services, http, job_id), **_status(snapshot)}
    return JSONResponse(status, 200 if snapshot.job.state.is_terminal else 202, {"X-Job-Id": job_id})


@router.get(
    "/fal/{model:path}/requests/{job_id}",
    operation_id="falGetResult",
    responses=RESULT,
)
async def get_result(
    http: Request, services: ServicesDep, caller: CallerDep, _model: AnyModel, job_id: str
) -> Response:
    """The images of a completed request, or how it failed."""
    snapshot = await services.find_job(http, caller, job_id)
    if not snapshot.job.state.is_terminal:
        raise ImageNotFound(f"The request is {snapshot.job.state}: it has no images yet.")
    return await _result(services, http, snapshot)


@router.put("/fal/{model:path}/requests/{job_id}/cancel", operation_id="falCancel", status_code=202)
async def cancel(http: Request, services: ServicesDep, caller: CallerDep, _model: AnyModel, job_id: str) -> Response:
    """Cancel a request."""
    await services.find_job(http, caller, job_id)
    try:
        await cancel_job(services, job_id)
    except InvalidTransition:
        return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
    return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)


@router.post("/fal/run/{model:path}", operation_id="falRun", responses=RESULT, openapi_extra=BODY)
async def run(http: Request, services: ServicesDep, idempotency: IdempotencyDep, model: str) -> Response:
    """Make images and wait for them."""
    to_fields = partial(translate, await ModelNames.read(services), model)
    async with translated_submission(http, services, idempotency, ApiProtocol.FAL, to_fields) as submission:
        snapshot = await wait_for_result(submission)
    return await _result(services, http, snapshot)


@router.post("/fal/{model:path}", operation_id="falSubmit", openapi_extra=BODY)
async def submit(
    http: Request,
    services: ServicesDep,
    idempotency: IdempotencyDep,
    model: str,
    fal_webhook: Annotated[str | None, Query(max_length=2048)] = None,
) -> Response:
    """Put a request into the queue."""
    to_fields = partial(translate, await ModelNames.read(services), model, webhook=fal_webhook)
    async with translated_submission(http, services, idempotency, ApiProtocol.FAL, to_fields) as submission:
        snapshot = await submit_and_wait(submission, 0)
    job_id = snapshot.job.id
    handle = {**_handle(services, http, job_id, model), **_status(snapshot)}
    return JSONResponse(handle, headers={"X-Job-Id": job_id, "x-fal-request-id": job_id})


def _handle(services: Services, http: Request, job_id: str, model: str | None = None) -> dict[str, str]:
    """The addresses of a request."""
    path = model or http.path_params["model"]
    address = f"{services.base_url(http)}/fal/{path}/requests/{job_id}"
    urls = {"response_url": address, "status_url": f"{address}/status", "cancel_url": f"{address}/cancel"}
    return {"request_id": job_id, **urls}


def _status(snapshot: JobSnapshot) -> dict[str, Any]:
    """Clients read `logs` and `queue_position` without asking whether they are there."""
    job = snapshot.job
    match job.state:
        case State.QUEUED:
            return {"status": "IN_QUEUE", "queue_position": snapshot.queue_position or 0}
        case State.RUNNING:
            return {"status": "IN_PROGRESS", "logs": _logs(snapshot.progress)}
        case _:
            failed = {} if job.state is State.SUCCEEDED else fal.failure(job)
            error = {"error": failed["detail"], "error_type": failed["error_type"]} if failed else {}
            metrics = {f"{name}_time": seconds for name, seconds in fal.timings(job).items()}
            return {"status": "COMPLETED", "logs": _logs(snapshot.progress), "metrics": metrics, **error}


def _logs(progress: Progress | None) -> list[dict[str, str]]:
    return [{"message": progress_line(progress), "level": "INFO"}] if progress else []


async def _result(services: Services, http: Request, snapshot: JobSnapshot) -> Response:
    job, headers = snapshot.job, {"X-Job-Id": snapshot.job.id, "x-fal-request-id": snapshot.job.id}
    if job.error is not None:
        return failed_job_response(job.error, headers)
    if job.state is State.CANCELLED:
        raise ImageNotFound("The request was cancelled; it has no images.")
    return JSONResponse(fal.result(job, await services.links(http)), headers=headers)
