"""The routes for jobs: create, get, list, cancel, delete, pin."""

from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.delivery.answers import accepted_response, job_response, view_job
from api.delivery.job_search import find_jobs
from api.delivery.waiting import latest
from api.edge.authentication import Caller, CallerDep, charge
from api.intake.admission import admit_job, cancel_job, prepare_job, purge_job
from api.intake.idempotency import IdempotencyDep
from api.intake.openapi_bodies import json_request_body
from api.intake.submissions import json_submission
from api.native.direct_route import DirectRoute
from api.native.generate import EXAMPLES, SUBMIT_PROBLEMS
from api.problems import problem_responses
from api.services import Services, ServicesDep
from shared.errors import JobNotFound
from shared.jobs.search import JobSearch
from shared.jobs.snapshots import JobFilter
from shared.jobs.states import State
from shared.jobs.types import ApiProtocol, Backend
from shared.jobs.views import JobListView, JobView, RepeatableRequestView, repeatable_request

router = APIRouter(tags=["jobs"], route_class=DirectRoute)

FIND_PROBLEMS = problem_responses("invalid-request", "job-not-found")
CHANGE_PROBLEMS = {**FIND_PROBLEMS, **problem_responses("forbidden")}
#: A list of so many jobs costs as much as one request for one job.
JOBS_PER_REQUEST = 20


@router.post(
    "/api/jobs",
    operation_id="createJob",
    status_code=202,
    response_model=JobView,
    responses={202: {"model": JobView}, **SUBMIT_PROBLEMS},
    openapi_extra=json_request_body(EXAMPLES),
)
async def create_job(http: Request, services: ServicesDep, idempotency: IdempotencyDep) -> Response:
    """Submit a job and return immediately; its images come later."""
    async with json_submission(http, services, idempotency) as submission:
        job, expected_ms = await prepare_job(submission)
        admission = await admit_job(submission, job, expected_ms)
    snapshot = admission.accepted or await latest(services, job, admission.job_id)
    return await accepted_response(services, http, snapshot)


@router.get(
    "/api/jobs/{job_id}",
    operation_id="getJob",
    response_model=JobView,
    responses={304: {"description": "`If-None-Match` names the current version of the job"}, **FIND_PROBLEMS},
)
async def get_job(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Get one job in its current state."""
    return await job_response(services, http, await services.find_job(http, caller, job_id))


@router.get(
    "/api/jobs",
    operation_id="listJobs",
    responses=problem_responses("invalid-request"),
)
async def list_jobs(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    state: State | None = None,
    backend: Backend | None = None,
    origin: ApiProtocol | None = None,
    label: Annotated[str | None, Query(max_length=128)] = None,
    pinned: Annotated[bool, Query(description="Only pinned jobs")] = False,
    q: Annotated[str, Query(max_length=200, description="Words that the prompt or the label must contain")] = "",
    model: Annotated[str | None, Query(max_length=200, description="Name of the model that made the images")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f-]{36}$")] = None,
) -> JobListView:
    """List jobs, newest first. A short page with a cursor means that there may be more."""
    search = JobSearch(q, model)
    wanted = JobFilter(
        state=state,
        backend=backend,
        origin=origin,
        label=label,
        owner=caller.visible_owner,
        pinned=pinned,
        search=search,
    )
    if limit > JOBS_PER_REQUEST:
        await charge(http, limit // JOBS_PER_REQUEST - 1)
    if search:
        page = await find_jobs(services, wanted, limit, cursor, partial(charge, http))
    else:
        page = await services.store.run(services.jobs.list_page(wanted, limit, cursor))
    return JobListView(jobs=[await view_job(services, http, snapshot) for snapshot in page.jobs], cursor=page.cursor)


@router.delete(
    "/api/jobs/{job_id}",
    operation_id="cancelJob",
    response_model=JobView,
    responses={
        204: {"description": "The job and its images are deleted"},
        **CHANGE_PROBLEMS,
        **problem_responses("invalid-transition"),
    },
)
async def delete_job(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    job_id: str,
    purge: Annotated[bool, Query(description="Delete a finished job and its images instead")] = False,
) -> Response:
    """Cancel a queued job immediately, or a running one at its next step; 409 if the job has ended.

    With `purge=true`, delete a finished job with its images for good; 409 if it has not ended or is pinned.
    """
    snapshot = await services.find_job(http, caller, job_id)
    if purge:
        await purge_job(services, snapshot)
        return Response(status_code=204, headers={"X-Job-Id": job_id})
    return await job_response(services, http, await cancel_job(services, job_id))


@router.put("/api/jobs/{job_id}/pin", operation_id="pinJob", response_model=JobView, responses=CHANGE_PROBLEMS)
async def pin_job(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Exempt the job and its images from retention."""
    return await _set_pinned(services, http, caller, job_id, pinned=True)


@router.delete("/api/jobs/{job_id}/pin", operation_id="unpinJob", response_model=JobView, responses=CHANGE_PROBLEMS)
async def unpin_job(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Apply retention to the job again."""
    return await _set_pinned(services, http, caller, job_id, pinned=False)


@router.get("/api/jobs/{job_id}/request", operation_id="getJobRequest", responses=FIND_PROBLEMS)
async def get_job_request(
    http: Request, services: ServicesDep, caller: CallerDep, job_id: str
) -> RepeatableRequestView:
    """Get the request of a job, ready to be sent to `POST /api/jobs` again."""
    return repeatable_request((await services.find_job(http, caller, job_id)).job)


async def _set_pinned(services: Services, http: Request, caller: Caller, job_id: str, *, pinned: bool) -> Response:
    snapshot = await services.find_job(http, caller, job_id)
    if not await services.store.run(services.jobs.pin(job_id, pinned=pinned)):
        raise JobNotFound
    return await job_response(services, http, replace(snapshot, pinned=pinned))
