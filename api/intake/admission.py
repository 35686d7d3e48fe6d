"""Checks, accepts and cancels jobs."""

import asyncio
import itertools

from api.edge.telemetry.tracing import current_traceparent
from api.field_errors import invalid_field
from api.intake.submissions import Submission
from api.models.offered import ModelChoice, OfferedModels
from api.services import Services
from shared.errors import (
    AcceptanceUnconfirmed,
    Forbidden,
    ForbiddenUrl,
    IdempotencyMismatch,
    InvalidTransition,
    JobNotFound,
    QueueFull,
    StoreUnavailable,
)
from shared.jobs.admission import Admission, AdmissionOutcome, IdempotencyKey, OnDuplicate, QueueLimits
from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.job import Job
from shared.jobs.operations import workload_key
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.states import State
from shared.jobs.types import Priority
from shared.models.capabilities import Capabilities, Size
from shared.net.url import Url
from shared.redis.store import REPLY_TIMEOUT_SECONDS
from shared.workers.records import Fleet

#: Models that an error suggests for requests with images.
MAX_HINTS = 16


async def prepare_job(submission: Submission) -> tuple[Job, int]:
    """Check a request. Returns its job and how many milliseconds it will probably take (0: unknown).

    Raises Forbidden, InvalidRequest, ModelNotFound, ModelUnavailable, StorageFull and StoreUnavailable, and
    BackendUnavailable if no worker will ever run the job.
    """
    services, caller = submission.services, submission.scope.caller
    request, input_size = submission.request, submission.input_size
    if request.priority is Priority.HIGH and not caller.may_use_high_priority:
        raise Forbidden(
            "This API key may not use priority high: leave priority out, or ask the operator for a key with the scope "
            "priority (name:key:priority in SD_API_KEY)."
        )
    _check_webhook_url(services, request)
    await services.disk_space.require_space()
    # The answer needs the signer. Reading it after the job is accepted could turn the answer into an error.
    await services.link_secret.signer()
    models = await services.models()
    choice = models.choose(request)
    if (capabilities := choice.capabilities) is not None:
        _require_image_support(models, capabilities, request)
        capabilities.check(request, services.limits, input_size)
    else:
        services.limits.check(request)
    # Links in answers begin with the address of the request. Webhooks answer no request, so the job stores it.
    job_base_url = services.base_url(submission.http) if request.webhook_url is not None else ""
    model = choice.entry.name if choice.entry else None
    details = {"traceparent": current_traceparent(), "origin": submission.origin, "warnings": submission.warnings}
    job = Job.new(request, choice.backend, services.clock.now(), caller.owner, job_base_url, model, **details)
    return job, _expected_ms(services, models.fleet, choice, request, input_size)


async def admit_job(submission: Submission, job: Job, expected_ms: int) -> Admission:
    """Accept the job: once this returns, it is not lost.

    Raises QueueFull, IdempotencyMismatch, and AcceptanceUnconfirmed if Redis does not answer in time.
    """
    services, key = submission.services, submission.key
    await services.unconfirmed.settle(key)
    if job.request.image:
        await services.store.run(JobHousekeeping(services.settings.redis_prefix).register_upload(job.id))
    await submission.uploads.move_to_job(job)
    try:
        admission = await _create(services, job, expected_ms, key)
    except StoreUnavailable:
        # The job may exist, so its images stay; without a job the housekeeper removes them.
        if key.on_duplicate is OnDuplicate.RETURN_UNCONFIRMED:
            services.unconfirmed.add(key, job.id)
        raise AcceptanceUnconfirmed(job.id) from None
    if admission.outcome is not AdmissionOutcome.CREATED:
        await services.uploads.discard(job)
    match admission.outcome:
        case AdmissionOutcome.QUEUE_FULL:
            raise QueueFull
        case AdmissionOutcome.OWNER_LIMIT:
            raise QueueFull("This API key has reached its limit of queued and running jobs; try again later.")
        case AdmissionOutcome.MISMATCH:
            raise IdempotencyMismatch
        case AdmissionOutcome.CREATED | AdmissionOutcome.DUPLICATE:
            return admission


async def _create(services: Services, job: Job, expected_ms: int, key: IdempotencyKey) -> Admission:
    settings = services.settings
    per_backend = settings.max_queued_jobs_per_backend or settings.max_queued_jobs
    limits = QueueLimits(settings.max_queued_jobs, per_backend, settings.max_jobs_per_key)
    latest_ms = round((services.clock.time() + REPLY_TIMEOUT_SECONDS) * 1000)
    return await services.store.run(services.jobs.create(job, limits, key, expected_ms, latest_ms))


async def cancel_job(services: Services, job_id: str) -> JobSnapshot:
    """Cancel a queued job at once, and a running one at its next step.

    Raises JobNotFound, StoreUnavailable, and InvalidTransition for a job that has ended.
    """
    cancelled: Job | None = None
    while True:
        state = await services.store.run(services.jobs.request_cancel(job_id))
        if state is None:
            raise JobNotFound
        snapshot = await services.read_job(job_id)
        job = snapshot.job
        match job.state:
            case State.RUNNING:
                # A job that started after the request missed it: request again.
                if state is State.RUNNING:
                    return snapshot
            case State.QUEUED:
                cancelled = job.cancel(services.clock.now())
                # False if a worker has started the job meanwhile: request again, and that worker cancels it.
                if await services.store.run(services.jobs.move(job, cancelled)):
                    await services.uploads.discard(job)
                    return JobSnapshot(cancelled)
            case State.CANCELLED if job == cancelled:
                # This call cancelled the job: the store refuses a repeated move after its first answer was lost.
                await services.uploads.discard(job)
                return snapshot
            case _:
                raise InvalidTransition(f"The job has already {_ENDED[job.state]}.")


async def purge_job(services: Services, snapshot: JobSnapshot) -> None:
    """Delete a finished job and its images. May be repeated until it succeeds.

    Raises InvalidTransition for a job that has not ended or is pinned, StorageUnavailable and StoreUnavailable.
    """
    job = snapshot.job
    if not job.state.is_terminal:
        raise InvalidTransition(f"The job is {job.state}; cancel it first.")
    if snapshot.pinned:
        raise InvalidTransition("The job is pinned; remove the pin first.")
    # The record goes last: while it exists, the caller sees the job and can delete it again.
    await asyncio.to_thread(services.image_store.remove_images, job)
    await services.store.run(JobHousekeeping(services.settings.redis_prefix).delete_job(job.id))


_ENDED = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "been cancelled"}


def _check_webhook_url(services: Services, request: GenerationRequest) -> None:
    if request.webhook_url is None:
        return
    try:
        Url.parse(request.webhook_url)
    except ForbiddenUrl as error:
        raise invalid_field("/webhook_url", error.detail) from None
    try:
        services.outbound.check(request.webhook_url)
    except ForbiddenUrl as error:
        raise invalid_field("/webhook_url", f"{error.detail} The operator can allow it in SD_WEBHOOK_ALLOW.") from None


def _require_image_support(models: OfferedModels, model: Capabilities, request: GenerationRequest) -> None:
    """Raises InvalidRequest, with the models that accept images, if the chosen model does not."""
    if not request.image or request.resize_only or model.max_input_images:
        return
    supporting = (
        entry.name
        for entry in models.catalogue.entries
        if entry.state.is_usable and entry.capabilities and entry.capabilities.max_input_images
    )
    names = ", ".join(itertools.islice(supporting, MAX_HINTS))
    raise invalid_field("/image", f"{model.model} takes no images{f'; {names} can' if names else ''}")


def _expected_ms(
    services: Services, fleet: Fleet, choice: ModelChoice, request: GenerationRequest, input_size: Size | None
) -> int:
    durations, capabilities = fleet.duration_stats[choice.backend], choice.capabilities
    if capabilities is None:
        return durations.get("*", 0)
    resolved, _ = capabilities.resolve(request, input_size, services.limits.max_pixels)
    return durations.get(workload_key(capabilities.model, resolved), durations.get("*", 0))
