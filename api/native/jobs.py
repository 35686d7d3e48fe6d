"""The routes for jobs: create, get, list, follow, cancel, pin."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.delivery.answers import accepted_response, estimated_wait, job_response, view_job
from api.delivery.events import format_event, job_events, retry_until_available
from api.delivery.waiting import latest
from api.edge.authentication import Caller, CallerDep, charge
from api.intake.admission import admit_job, cancel_job, prepare_job
from api.intake.idempotency import IdempotencyDep
from api.intake.openapi_bodies import json_request_body
from api.intake.submissions import json_submission
from api.native.generate import EXAMPLES, SUBMIT_PROBLEMS
from api.problems import problem_responses, set_job_id
from api.services import Services, ServicesDep
from shared.access.links import Links
from shared.errors import JobNotFound
from shared.jobs.admission import AdmissionOutcome
from shared.jobs.snapshots import JobEvent, JobFilter, JobSnapshot
from shared.jobs.states import State
from shared.jobs.types import ApiProtocol, Backend
from shared.jobs.views import JobListView, JobView, job_view

router = APIRouter(tags=["jobs"])

FIND_PROBLEMS = problem_responses(
    "unauthorized", "invalid-request", "job-not-found", "rate-limited", "store-unavailable"
)
CHANGE_PROBLEMS = {**FIND_PROBLEMS, **problem_responses("forbidden")}
#: A list of so many jobs costs as much as one request for one job.
JOBS_PER_REQUEST = 20
#: Id of the only event of a job whose events have expired.
EXPIRED_END = "0-1"


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
    async with json_submission(http, services) as submission:
        key, base_url = idempotency.key_for(submission.request), services.base_url(http)
        job, expected_ms = await prepare_job(services, idempotency.caller, submission, base_url)
        admission = await admit_job(services, job, expected_ms, key, submission.uploads)
    if admission.outcome is not AdmissionOutcome.CREATED:
        return await accepted_response(services, http, await latest(services, job, admission.job_id))
    accepted = JobSnapshot(job, queue_position=admission.queue_position, work_ahead_ms=admission.work_ahead_ms)
    return await accepted_response(services, http, accepted)


@router.get(
    "/api/jobs/{job_id}",
    operation_id="getJob",
    response_model=JobView,
    responses={304: {"description": "`If-None-Match` names the current version of the job"}, **FIND_PROBLEMS},
)
async def get_job(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Get one job in its current state."""
    return await job_response(services, http, await _find(services, http, caller, job_id))


@router.get(
    "/api/jobs",
    operation_id="listJobs",
    responses=problem_responses("unauthorized", "invalid-request", "rate-limited", "store-unavailable"),
)
async def list_jobs(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    state: State | None = None,
    backend: Backend | None = None,
    origin: ApiProtocol | None = None,
    label: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f-]{36}$")] = None,
) -> JobListView:
    """Jobs, newest first. A page may be short and still have a cursor: then there may be more."""
    wanted = JobFilter(state=state, backend=backend, origin=origin, label=label, owner=caller.visible_owner)
    if limit > JOBS_PER_REQUEST:
        await charge(http, limit // JOBS_PER_REQUEST - 1)
    page = await services.store.run(services.jobs.list_page(wanted, limit, cursor))
    return JobListView(jobs=[await view_job(services, http, snapshot) for snapshot in page.jobs], cursor=page.cursor)


@router.delete(
    "/api/jobs/{job_id}",
    operation_id="cancelJob",
    response_model=JobView,
    responses={**CHANGE_PROBLEMS, **problem_responses("invalid-transition")},
)
async def delete_job(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Cancel a queued job immediately, or a running one at its next step. A finished job answers 409."""
    await _find(services, http, caller, job_id)
    return await job_response(services, http, await cancel_job(services, job_id))


@router.put("/api/jobs/{job_id}/pin", operation_id="pinJob", response_model=JobView, responses=CHANGE_PROBLEMS)
async def pin_job(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Exempt the job and its images from retention."""
    return await _set_pinned(services, http, caller, job_id, pinned=True)


@router.delete("/api/jobs/{job_id}/pin", operation_id="unpinJob", response_model=JobView, responses=CHANGE_PROBLEMS)
async def unpin_job(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Apply retention to the job again."""
    return await _set_pinned(services, http, caller, job_id, pinned=False)


async def _stream_slot(services: ServicesDep, caller: CallerDep) -> AsyncIterator[None]:
    """Occupied until the stream ends."""
    with services.stream_limit.slot(caller.client_id):
        yield


@router.get(
    "/api/jobs/{job_id}/events",
    operation_id="streamJobEvents",
    dependencies=[Depends(_stream_slot)],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The job has ended, and the client has seen its last event"},
        **FIND_PROBLEMS,
    },
)
async def stream_job_events(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    job_id: str,
    last_event_id: Annotated[str, Header(description="Resume after this event")] = "",
) -> Response:
    """Follow a job through Server-Sent Events: `state`, `progress`, `preview`, and finally `done` with the whole job.

    `Last-Event-ID` resumes without loss, but previews are not repeated.
    """
    # Redis accepts no number above 2^64.
    last = last_event_id if re.fullmatch(r"\d{1,19}-\d{1,19}", last_event_id) else ""
    snapshot = await _find(services, http, caller, job_id)
    if snapshot.job.state.is_terminal and last and await _has_seen_end(services, job_id, last):
        # EventSource reconnects whenever a stream ends; only 204 stops it.
        return Response(status_code=204, headers={"X-Job-Id": job_id})
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "X-Job-Id": job_id}
    stream = _stream(services, snapshot, last, await services.links(http))
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _set_pinned(services: Services, http: Request, caller: Caller, job_id: str, *, pinned: bool) -> Response:
    snapshot = await _find(services, http, caller, job_id)
    if not await services.store.run(services.jobs.pin(job_id, pinned=pinned)):
        raise JobNotFound
    return await job_response(services, http, replace(snapshot, pinned=pinned))


async def _find(services: Services, http: Request, caller: Caller, job_id: str) -> JobSnapshot:
    snapshot = await services.read_job(job_id, caller.visible_owner)
    set_job_id(http, job_id)
    return snapshot


async def _has_seen_end(services: Services, job_id: str, last: str) -> bool:
    events = await services.store.run(services.jobs.read_events(job_id))
    return last == (events[-1].id if events else EXPIRED_END)


async def _stream(services: Services, snapshot: JobSnapshot, last: str, links: Links) -> AsyncIterator[bytes]:
    job_id = snapshot.job.id
    with services.event_hub.listen(job_id) as listener:
        if snapshot.job.state.is_terminal and not await services.store.run(services.jobs.read_events(job_id, last)):
            # The events have expired, but the record has the outcome.
            yield format_event(JobEvent(job_id, EXPIRED_END, "done", snapshot.job.state), _job_json(snapshot, links))
            return
        async for event in job_events(services.store, services.jobs, listener, job_id, last):
            if event is not None and event.type in ("done", "state"):
                snapshot = await retry_until_available(lambda: services.read_job(job_id))
                wait = await estimated_wait(services, snapshot)
                position = snapshot.queue_position if event.data == State.QUEUED else None
                yield format_event(event, _job_json(snapshot, links), position, wait)
            else:
                yield format_event(event)


def _job_json(snapshot: JobSnapshot, links: Links) -> str:
    return job_view(snapshot, links).model_dump_json()
