"""Submits a job and waits for its end."""

import asyncio
from contextlib import ExitStack, suppress
from typing import Literal

from fastapi import Request

from api.delivery.events import Listener, retry_until_available, wait_until_done
from api.intake.admission import IdempotencyScope, admit_job, cancel_job, prepare_job
from api.intake.uploads import RequestUploads
from api.problems import set_job_id
from api.services import Services
from shared.errors import InvalidTransition, StoreUnavailable
from shared.jobs.admission import AdmissionOutcome
from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobSnapshot

#: How long the cancellation for a caller that has left is retried.
CANCEL_SECONDS = 60.0

OnDisconnect = Literal["keep", "cancel"]


async def submit_and_wait(
    http: Request,
    services: Services,
    request: GenerationRequest,
    uploads: RequestUploads,
    scope: IdempotencyScope,
    seconds: int,
    on_disconnect: OnDisconnect = "keep",
) -> JobSnapshot:
    """The finished job; or the job as it is when time is up, the caller has left or this process stops."""
    job, expected_ms = await prepare_job(
        services, scope.caller, request, services.base_url(http), uploads.first_image_size(request)
    )
    with ExitStack() as listening:
        # Listening from before the job is accepted misses nothing, so the record is read once, at the end.
        listener = listening.enter_context(services.event_hub.listen(job.id))
        admission = await admit_job(services, job, expected_ms, scope.key_for(request), uploads)
        if admission.outcome is not AdmissionOutcome.CREATED:
            listener = listening.enter_context(services.event_hub.listen(admission.job_id))
            # The job may have ended before anybody listened, and another caller may wait for it too.
            listener.notify(None)
            on_disconnect = "keep"
        snapshot = await _wait(services, http, listener, admission.job_id, seconds, on_disconnect)
    set_job_id(http, admission.job_id)
    return snapshot or await latest(services, job, admission.job_id)


async def latest(services: Services, draft: Job, job_id: str) -> JobSnapshot:
    """The accepted job as it is now, or as its draft was while the store is away. Raises JobNotFound."""
    with suppress(StoreUnavailable):
        return await services.read_job(job_id)
    return JobSnapshot(draft.model_copy(update={"id": job_id}))


async def _wait(
    services: Services, http: Request, listener: Listener, job_id: str, seconds: int, on_disconnect: OnDisconnect
) -> JobSnapshot | None:
    finished = asyncio.ensure_future(wait_until_done(services.store, services.jobs, listener, job_id))
    disconnected = asyncio.ensure_future(_disconnected(http))
    closing = asyncio.ensure_future(services.event_hub.closing.wait())
    tasks = (finished, disconnected, closing)
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if finished.done():
            return finished.result()
        if disconnected.done() and on_disconnect == "cancel":
            await _cancel(services, job_id)
        return None
    finally:
        for task in tasks:
            task.cancel()


async def _cancel(services: Services, job_id: str) -> None:
    """Cancel for a caller that has left and cannot ask again: retried while the store is away, for a limited time."""
    with suppress(InvalidTransition, TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await retry_until_available(lambda: cancel_job(services, job_id))


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
