"""Jobs as a resource: create, look at, list, follow, cancel."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.delivery.events import follow, patiently, read, server_sent
from api.edge.authentication import Caller, CallerDep, charge
from api.intake.admission import IdempotencyDep, admit, draft, withdraw
from api.intake.submissions import json_body, json_submission
from api.native.generate import (
    EXAMPLES,
    SUBMIT_PROBLEMS,
    estimated_wait,
    handed_over,
    handed_over_as,
    job_answer,
    view,
)
from api.problems import about, documented
from api.services import Services, ServicesDep
from shared.access.links import Links
from shared.errors import JobNotFound
from shared.jobs.admission import AdmissionOutcome
from shared.jobs.snapshots import JobEvent, JobFilter, JobSnapshot
from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.jobs.views import JobListView, JobView, job_view

router = APIRouter(tags=["jobs"])

FIND_PROBLEMS = documented("unauthorized", "invalid-request", "job-not-found", "rate-limited", "store-unavailable")
CHANGE_PROBLEMS = {**FIND_PROBLEMS, **documented("forbidden")}
#: So many jobs in a list cost as much as one request about one job.
JOBS_OF_A_REQUEST = 20
#: Id of the one event that is told of a job whose events have lapsed.
LAPSED_END = "0-1"


@router.post(
    "/api/jobs",
    status_code=202,
    response_model=JobView,
    responses={202: {"model": JobView}, **SUBMIT_PROBLEMS},
    openapi_extra=json_body(EXAMPLES),
)
async def create(http: Request, services: ServicesDep, repetition: IdempotencyDep) -> Response:
    """Accept a job and answer at once; its images come later."""
    async with json_submission(http, services) as submission:
        request, uploads, base_url = submission.request, submission.uploads, services.base_url(http)
        job, expected_ms = await draft(services, repetition.caller, request, base_url, uploads.size(request))
        admission = await admit(services, job, expected_ms, repetition.of(request), uploads)
    if admission.outcome is not AdmissionOutcome.CREATED:
        return await handed_over(services, http, JobSnapshot(job), admission.job_id)
    accepted = JobSnapshot(job, queue_position=admission.queue_position, work_ahead_ms=admission.work_ahead_ms)
    return await handed_over_as(services, http, accepted)


@router.get(
    "/api/jobs/{job_id}",
    response_model=JobView,
    responses={304: {"description": "`If-None-Match` names the job as it is"}, **FIND_PROBLEMS},
)
async def show(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """One job, as it is now."""
    return await job_answer(services, http, await _found(services, http, caller, job_id))


@router.get("/api/jobs", responses=documented("unauthorized", "invalid-request", "rate-limited", "store-unavailable"))
async def index(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    state: State | None = None,
    backend: Backend | None = None,
    label: Annotated[str | None, Query(max_length=128)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9a-f-]{36}$")] = None,
) -> JobListView:
    """Jobs, newest first. A page may be short and still have a cursor: then there may be more."""
    wanted = JobFilter(state=state, backend=backend, label=label, owner=caller.sees)
    if limit > JOBS_OF_A_REQUEST:
        await charge(http, limit // JOBS_OF_A_REQUEST - 1)
    page = await services.store.run(services.jobs.list_page(wanted, limit, cursor))
    return JobListView(jobs=[await view(services, http, snapshot) for snapshot in page.jobs], cursor=page.cursor)


@router.delete(
    "/api/jobs/{job_id}",
    response_model=JobView,
    responses={**CHANGE_PROBLEMS, **documented("invalid-transition")},
)
async def cancel(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Cancel: a queued job at once, a running one at its next step. A finished one is answered 409."""
    await _found(services, http, caller, job_id)
    return await job_answer(services, http, await withdraw(services, job_id))


@router.put("/api/jobs/{job_id}/pin", response_model=JobView, responses=CHANGE_PROBLEMS)
async def pin(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Keep the job and its images, whatever the retention rules say."""
    return await _pinned(services, http, caller, job_id, pinned=True)


@router.delete("/api/jobs/{job_id}/pin", response_model=JobView, responses=CHANGE_PROBLEMS)
async def unpin(http: Request, services: ServicesDep, caller: CallerDep, job_id: str) -> Response:
    """Let the retention rules apply to the job again."""
    return await _pinned(services, http, caller, job_id, pinned=False)


async def _stream_place(services: ServicesDep, caller: CallerDep) -> AsyncIterator[None]:
    """Taken until the stream has ended."""
    with services.streams.place(caller.account):
        yield


@router.get(
    "/api/jobs/{job_id}/events",
    dependencies=[Depends(_stream_place)],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "Nothing more to come"},
        **FIND_PROBLEMS,
    },
)
async def events(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    job_id: str,
    last_event_id: Annotated[str, Header(description="Resume after this event")] = "",
) -> Response:
    """Server-Sent Events: `state`, `progress`, `preview` and, at the end, `done` with the whole job.

    `Last-Event-ID` resumes without loss; previews are not repeated.
    """
    # Redis takes no number above 2^64.
    last = last_event_id if re.fullmatch(r"\d{1,19}-\d{1,19}", last_event_id) else ""
    snapshot = await _found(services, http, caller, job_id)
    if snapshot.job.state.is_terminal and last and await _has_seen_the_end(services, job_id, last):
        # EventSource reconnects whenever a stream ends; 204 is how it is told to stop.
        return Response(status_code=204, headers={"X-Job-Id": job_id})
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "X-Job-Id": job_id}
    stream = _stream(services, snapshot, last, await services.links(http))
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _pinned(services: Services, http: Request, caller: Caller, job_id: str, *, pinned: bool) -> Response:
    snapshot = await _found(services, http, caller, job_id)
    if not await services.store.run(services.jobs.pin(job_id, pinned=pinned)):
        raise JobNotFound
    return await job_answer(services, http, replace(snapshot, pinned=pinned))


async def _found(services: Services, http: Request, caller: Caller, job_id: str) -> JobSnapshot:
    snapshot = await services.find(caller, job_id)
    about(http, job_id)
    return snapshot


async def _has_seen_the_end(services: Services, job_id: str, last: str) -> bool:
    known = await services.store.run(services.jobs.read_events(job_id))
    return last == (known[-1].id if known else LAPSED_END)


async def _stream(services: Services, snapshot: JobSnapshot, last: str, links: Links) -> AsyncIterator[bytes]:
    job_id = snapshot.job.id
    with services.hub.listen(job_id) as listener:
        if snapshot.job.state.is_terminal and not await services.store.run(services.jobs.read_events(job_id, last)):
            # The events have lapsed; the record tells the end.
            yield server_sent(JobEvent(job_id, LAPSED_END, "done", snapshot.job.state), _job_json(snapshot, links))
            return
        async for event in follow(services.store, services.jobs, listener, job_id, last):
            if event is not None and event.type in ("done", "state"):
                snapshot = await patiently(lambda: read(services.store, services.jobs, job_id))
                wait = await estimated_wait(services, snapshot)
                place = snapshot.queue_position if event.data == State.QUEUED else None
                yield server_sent(event, _job_json(snapshot, links), place, wait)
            else:
                yield server_sent(event)


def _job_json(snapshot: JobSnapshot, links: Links) -> str:
    return job_view(snapshot, links).model_dump_json()
