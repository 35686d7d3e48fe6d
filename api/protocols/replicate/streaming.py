"""A prediction as Server-Sent Events: its progress, its output, and that it is done."""

import json
from collections.abc import AsyncIterator

from fastapi.sse import format_sse_event

from api.delivery.events import retry_until_available
from api.services import Services
from shared.access.links import Links
from shared.jobs.job import Progress
from shared.jobs.states import State
from shared.protocols.replicate import image_links, progress_line

_REASONS = {State.FAILED: "error", State.CANCELLED: "canceled"}
#: Clients ignore events without an id.
_END = "end"


async def prediction_events(services: Services, job_id: str, links: Links) -> AsyncIterator[bytes]:
    """The events of a job until it ends."""
    with services.event_hub.listen(job_id) as listener:
        async for event in listener.events():
            if event is None:
                yield format_sse_event(comment="ping")
            elif event.type == "progress":
                line = progress_line(Progress.model_validate_json(event.data))
                yield format_sse_event(event="logs", id=event.id, data_str=line)
            elif event.type == "done":
                break
        else:
            # The process stops; the client connects again.
            return
    job = (await retry_until_available(lambda: services.read_job(job_id))).job
    for number, url in enumerate(image_links(job, links) or ()):
        yield format_sse_event(event="output", id=f"{_END}-{number}", data_str=url)
    if job.error is not None:
        yield format_sse_event(event="error", id=_END, data_str=json.dumps({"detail": job.error.detail}))
    reason = {"reason": _REASONS[job.state]} if job.state in _REASONS else {}
    yield format_sse_event(event="done", id=_END, data_str=json.dumps(reason))
