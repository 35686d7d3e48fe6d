"""Submits a job and waits for its end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Literal

from fastapi import Request

from api.delivery.events import Listener, retry_until_available
from api.intake.admission import admit_job, cancel_job, prepare_job
from api.intake.idempotency import RETRY_MS
from api.intake.submissions import Submission
from api.problems import set_job_id
from api.services import Services
from shared.errors import InvalidTransition, NotFinished, StoreUnavailable
from shared.jobs.admission import AdmissionOutcome, OnDuplicate
from shared.jobs.job import Job
from shared.jobs.snapshots import JobSnapshot

#: How long the cancellation for a caller that has disconnected is retried.
CANCEL_SECONDS = 60.0

OnDisconnect = Literal["keep", "cancel"]
#: Called with the id of a job as soon as it is accepted.
OnAccepted = Callable[[str], Awaitable[None]]


@dataclass(frozen=True)
class Submitted:
    """A request that was accepted."""

    job: Job
    job_id: str
    """Id of `job`, or of the job that an earlier request created."""
    listener: Listener
    is_new: bool


async def submit_and_wait(
    submission: Submission, seconds: int, on_disconnect: OnDisconnect = "keep", on_accepted: OnAccepted | None = None
) -> JobSnapshot:
    """The finished job, or the unfinished one at the timeout, a disconnection or the stop of this process.

    Raises RateLimited for too many calls that wait for the jobs of others, and what accepting a job raises.
    """
    services = submission.services
    with ExitStack() as listeners:
        submitted = await submit(submission, listeners)
        set_job_id(submission.http, submitted.job_id)
        if seconds and not submitted.is_new:
            listeners.enter_context(services.stream_limit.waiting_slot(submission.scope.caller.client_id))
        if on_accepted is not None:
            await on_accepted(submitted.job_id)
        # Other callers may wait for a job that this one has not created.
        on_disconnect = on_disconnect if submitted.is_new else "keep"
        snapshot = await _wait(services, submission.http, submitted, seconds, on_disconnect)
    return snapshot or await latest(services, submitted.job, submitted.job_id)


async def submit(submission: Submission, listeners: ExitStack | AsyncExitStack) -> Submitted:
    """Accept a job and listen to it until `listeners` is closed."""
    hub = submission.services.event_hub
    job, expected_ms = await prepare_job(submission)
    # Listening starts before the job is accepted, so no event is missed and the record is read once, at the end.
    listener = listeners.enter_context(hub.listen(job.id))
    admission = await admit_job(submission, job, expected_ms)
    is_new = admission.outcome is AdmissionOutcome.CREATED
    if not is_new:
        listener = listeners.enter_context(hub.listen(admission.job_id))
        # This job may have ended already.
        listener.notify(None)
    return Submitted(job, admission.job_id, listener, is_new)


async def wait_for_result(submission: Submission, on_accepted: OnAccepted | None = None) -> JobSnapshot:
    """The finished job, for callers of protocols that know no unfinished answer.

    Callers that retry by themselves get an error before a proxy ends the call, and find the job when they retry. All
    others are waited for. Raises NotFinished.
    """
    settings = submission.services.settings
    seconds = settings.sync_timeout_seconds if submission.scope.asks_again else settings.client_wait_seconds
    snapshot = await submit_and_wait(submission, seconds, on_accepted=on_accepted)
    if not snapshot.job.state.is_terminal:
        raise await not_finished(submission, snapshot.job.id)
    return snapshot


async def not_finished(submission: Submission, job_id: str) -> NotFinished:
    """Let the next identical request of this caller find the job, and return the error that says so."""
    services, key = submission.services, submission.key
    # A caller that numbers its attempts and has disconnected finds the job by the number. Marked as well, the job would
    # also be returned to its next first attempt.
    is_found_by_number = submission.scope.asks_again and await submission.http.is_disconnected()
    if key.on_duplicate is not OnDuplicate.RETURN and not is_found_by_number:
        with suppress(StoreUnavailable):
            await services.store.run(services.jobs.mark_unconfirmed(replace(key, lifetime_ms=RETRY_MS), job_id))
    return NotFinished(job_id)


async def latest(services: Services, accepted: Job, job_id: str) -> JobSnapshot:
    """The accepted job as it is now; while Redis is away, as it was accepted. Raises JobNotFound."""
    with suppress(StoreUnavailable):
        return await services.read_job(job_id)
    return JobSnapshot(accepted.model_copy(update={"id": job_id}))


async def _wait(
    services: Services, http: Request, submitted: Submitted, seconds: int, on_disconnect: OnDisconnect
) -> JobSnapshot | None:
    finished = asyncio.ensure_future(submitted.listener.finished_job())
    disconnected = asyncio.ensure_future(_disconnected(http))
    closing = asyncio.ensure_future(services.event_hub.closing.wait())
    tasks = (finished, disconnected, closing)
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if finished.done():
            return finished.result()
        if disconnected.done() and on_disconnect == "cancel":
            await _cancel(services, submitted.job_id)
        return None
    finally:
        for task in tasks:
            task.cancel()


async def _cancel(services: Services, job_id: str) -> None:
    """Cancel for a caller that cannot retry because it has disconnected: retried while Redis is away, for a time."""
    with suppress(InvalidTransition, TimeoutError):
        async with asyncio.timeout(CANCEL_SECONDS):
            await retry_until_available(lambda: cancel_job(services, job_id))


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
