"""The routes that stream events: of one job, and of all jobs of a caller."""

import json
import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.delivery.answers import estimated_wait, view_job
from api.delivery.events import event_stream, format_event, retry_until_available
from api.delivery.stream_limit import StreamSlot
from api.edge.authentication import CallerDep
from api.problems import problem_responses
from api.services import Services, ServicesDep
from shared.access.links import Links
from shared.jobs.snapshots import JobEvent, JobSnapshot
from shared.jobs.states import State
from shared.jobs.views import job_view

router = APIRouter(tags=["jobs"])

#: Id of the only event of a job whose events have expired.
EXPIRED_END = "0-1"
LastEventId = Annotated[str, Header(description="Resume after this event")]


@router.get(
    "/api/jobs/{job_id}/events",
    operation_id="streamJobEvents",
    dependencies=[StreamSlot],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        204: {"description": "The job has ended, and the client has seen its last event"},
        **problem_responses("invalid-request", "job-not-found"),
    },
)
async def stream_job_events(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    job_id: str,
    last_event_id: LastEventId = "",
) -> Response:
    """Follow a job through Server-Sent Events: `state`, `loading`, `progress`, `preview`, finally `done` with the job.

    `Last-Event-ID` resumes without loss, but previews are not repeated.
    """
    last = _valid(last_event_id)
    snapshot = await services.find_job(http, caller, job_id)
    if snapshot.job.state.is_terminal and last and await _has_seen_end(services, job_id, last):
        # EventSource reconnects whenever a stream ends; only 204 stops it.
        return Response(status_code=204, headers={"X-Job-Id": job_id})
    return event_stream(_stream(services, snapshot, last, await services.links(http)), {"X-Job-Id": job_id})


@router.get(
    "/api/events",
    operation_id="streamEvents",
    dependencies=[StreamSlot],
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        **problem_responses("invalid-request"),
    },
)
async def stream_events(
    http: Request,
    services: ServicesDep,
    caller: CallerDep,
    last_event_id: LastEventId = "",
    previews: Annotated[bool, Query(description="Whether to send previews")] = True,
) -> Response:
    """Follow all jobs that you may see, new ones included, through Server-Sent Events.

    `state` and `done` have the whole job; `loading`, `progress` and `preview` have its `id`. `sync` comes first, and
    whenever events may have been missed: then read `GET /api/jobs`. `Last-Event-ID` resumes without `sync` if possible.
    """
    # The signer is read before the response begins, so that an unavailable store is still an error.
    await services.links(http)
    return event_stream(_stream_all(services, http, caller.visible_owner, _valid(last_event_id), previews=previews))


def _valid(event_id: str) -> str:
    """The id, or '' if it is none: Redis accepts no number above 2^64."""
    return event_id if re.fullmatch(r"\d{1,19}-\d{1,19}", event_id) else ""


async def _stream_all(
    services: Services, http: Request, owner: str | None, last: str, *, previews: bool
) -> AsyncIterator[bytes]:
    async for found in services.job_feed.follow(owner, last):
        event, snapshot = found or (None, None)
        if event is None or event.type == "sync":
            yield format_event(event)
        elif event.type in ("state", "done") and snapshot is not None:
            yield format_event(event, (await view_job(services, http, snapshot)).model_dump_json())
        elif previews or event.type != "preview":
            # Spliced in, because previews are large.
            yield format_event(event, f'{{"id":"{event.job_id}",{event.data[1:]}')


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
        async for event in listener.events(last):
            if event is None or event.type not in ("state", "done"):
                yield format_event(event)
                continue
            snapshot = await retry_until_available(lambda: services.read_job(job_id))
            if event.type == "done":
                data = _job_json(snapshot, links)
            else:
                position = snapshot.queue_position if event.data == State.QUEUED else None
                queue = {"queue_position": position, "estimated_wait_seconds": await estimated_wait(services, snapshot)}
                data = json.dumps({"id": job_id, "state": event.data, **queue})
            yield format_event(event, data)


def _job_json(snapshot: JobSnapshot, links: Links) -> str:
    return job_view(snapshot, links).model_dump_json()
