"""How jobs come in, and how they are withdrawn."""

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

from api.edge.authentication import Caller, CallerDep
from api.edge.telemetry.tracing import current_traceparent
from api.intake.uploads import RequestUploads
from api.services import Services
from shared.errors import (
    AcceptanceUnconfirmed,
    BackendUnavailable,
    FieldError,
    Forbidden,
    ForbiddenUrl,
    IdempotencyMismatch,
    InvalidRequest,
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
from shared.jobs.types import Backend, Priority
from shared.models.capabilities import Capabilities, Size
from shared.net.url import Url
from shared.redis.store import REPLY_TIMEOUT_SECONDS
from shared.workers.records import Fleet

IDEMPOTENCY_KEY = r"[\x21-\x7e]{1,255}"
#: How long an Idempotency-Key is remembered.
KEY_MS = 24 * 3600 * 1000
#: How long a retry without a key finds the request that it repeats: longer than clients take to give up and try again.
RETRY_MS = 15 * 60 * 1000
#: The same where the client only says the same again, and was told to: so long it may take to do so.
UNSURE_MS = 2 * 60 * 1000


@dataclass(frozen=True)
class IdempotencyScope:
    """What a caller says about whether it has asked before."""

    caller: Caller
    key: str | None
    retry_count: str | None

    def key_for(self, request: GenerationRequest) -> IdempotencyKey:
        """How this request would be recognised.

        A key is its owner's, wherever that one calls from; without keys of the service there is one owner. Who gives
        no key is told from others by where it calls from. SDKs that retry without a key number their attempts: the
        first makes a job, later ones get that job. Others get it if its caller never received the answer (see
        AcceptanceUnconfirmed).
        """
        request_hash = _hash(request.model_dump_json())
        if self.key is not None:
            return IdempotencyKey(
                _hash(f"key {self.caller.owner} {self.key}"), request_hash, OnDuplicate.RETURN, KEY_MS
            )
        asked = f"{self.caller.client_id} {request_hash}"
        if self.retry_count is None:
            return IdempotencyKey(_hash(f"unsure {asked}"), request_hash, OnDuplicate.RETURN_UNCONFIRMED, UNSURE_MS)
        on_duplicate = OnDuplicate.CREATE if self.retry_count == "0" else OnDuplicate.RETURN_UNLESS_FAILED
        return IdempotencyKey(_hash(f"retry {asked}"), request_hash, on_duplicate, RETRY_MS)


# Asynchronous, though it awaits nothing: FastAPI would run it on a thread otherwise, for each request.
async def _repetition(
    caller: CallerDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="Requests with the same key and body within 24 hours get the same job",
            json_schema_extra={"pattern": f"^{IDEMPOTENCY_KEY}$"},
        ),
    ] = None,
    x_stainless_retry_count: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> IdempotencyScope:
    if idempotency_key is not None and not re.fullmatch(IDEMPOTENCY_KEY, idempotency_key):
        wrong = FieldError("/Idempotency-Key", "must be 1 to 255 visible ASCII characters")
        raise InvalidRequest(errors=[wrong])
    return IdempotencyScope(caller, idempotency_key, x_stainless_retry_count)


IdempotencyDep = Annotated[IdempotencyScope, Depends(_repetition)]


async def prepare_job(
    services: Services, caller: Caller, request: GenerationRequest, base_url: str, input_size: Size | None = None
) -> tuple[Job, int]:
    """The job that the request would become, and how many milliseconds it will probably take (0: not known).

    `input_size` is that of the first image that the request brings.

    Raises BackendUnavailable where nobody would ever take it, Forbidden, InvalidRequest, StorageFull and
    StoreUnavailable.
    """
    if request.priority is Priority.HIGH and not caller.may_use_high_priority:
        raise Forbidden(
            "This key may not use priority high: leave priority out, or ask the operator for a key with the scope "
            "priority (name:key:priority in SD_API_KEY)."
        )
    _check_receiver(services, request)
    await services.disk_space.require_space()
    # The answer needs it; later, a store that is away would be told to the caller of a job that is already accepted.
    await services.link_secret.signer()
    fleet = await services.fleet_cache.get()
    backend = _choose_backend(services, fleet, request)
    known = services.capabilities(fleet, backend)
    if known:
        _require_takers(fleet, known.for_requested_model(request), request)
        known.check(request, services.limits, input_size)
    else:
        services.limits.check(request)
    # Whoever is told of the job without asking has no request of its own that links could begin like.
    links = base_url if request.webhook_url is not None else ""
    job = Job.new(request, backend, services.clock.now(), caller.owner, links)
    job = job.model_copy(update={"traceparent": current_traceparent()})
    return job, _expected_ms(services, fleet, backend, request, input_size)


async def admit_job(
    services: Services, job: Job, expected_ms: int, repeat: IdempotencyKey, uploads: RequestUploads
) -> Admission:
    """Accept the job: from here on it is not lost.

    Raises QueueFull, IdempotencyMismatch, and AcceptanceUnconfirmed for a job of which that is not known.
    """
    await services.unconfirmed.settle(repeat)
    if job.request.image:
        await services.store.run(JobHousekeeping(services.settings.redis_prefix).register_upload(job.id))
    await uploads.move_to_job(job)
    try:
        admission = await _create(services, job, expected_ms, repeat)
    except StoreUnavailable:
        # Its images stay, and the housekeeper removes them if there is no such job.
        if repeat.on_duplicate is OnDuplicate.RETURN_UNCONFIRMED:
            services.unconfirmed.add(repeat, job.id)
        raise AcceptanceUnconfirmed(job.id) from None
    if admission.outcome is not AdmissionOutcome.CREATED:
        await services.uploads.discard(job)
    match admission.outcome:
        case AdmissionOutcome.QUEUE_FULL:
            raise QueueFull
        case AdmissionOutcome.OWNER_LIMIT:
            raise QueueFull("This key has as many jobs waiting or running as it may; try again when some are done.")
        case AdmissionOutcome.MISMATCH:
            raise IdempotencyMismatch
        case AdmissionOutcome.CREATED | AdmissionOutcome.DUPLICATE:
            return admission


async def _create(services: Services, job: Job, expected_ms: int, repeat: IdempotencyKey) -> Admission:
    settings = services.settings
    per_backend = settings.max_queued_jobs_per_backend or settings.max_queued_jobs
    ceiling = QueueLimits(settings.max_queued_jobs, per_backend, settings.max_jobs_per_key)
    latest_ms = round((services.clock.time() + REPLY_TIMEOUT_SECONDS) * 1000)
    return await services.store.run(services.jobs.create(job, ceiling, repeat, expected_ms, latest_ms))


async def cancel_job(services: Services, job_id: str) -> JobSnapshot:
    """Cancel: a queued job at once, a running one at its next step. Raises InvalidTransition for one that has ended."""
    cancelled: Job | None = None
    while True:
        asked = await services.store.run(services.jobs.request_cancel(job_id))
        if asked is None:
            raise JobNotFound
        snapshot = await services.read_job(job_id)
        job = snapshot.job
        match job.state:
            case State.RUNNING:
                # Started between the two, it has not heard of it: ask again.
                if asked is State.RUNNING:
                    return snapshot
            case State.QUEUED:
                cancelled = job.cancel(services.clock.now())
                # Lost to a worker that started it meanwhile: ask again, that worker will hear it.
                if await services.store.run(services.jobs.move(job, cancelled)):
                    await services.uploads.discard(job)
                    return JobSnapshot(cancelled)
            case State.CANCELLED if job == cancelled:
                # By this very call: the answer was lost, and the store says no to who asks it again.
                await services.uploads.discard(job)
                return snapshot
            case _:
                raise InvalidTransition(f"The job has already {_ENDED[job.state]}.")


_ENDED = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "been cancelled"}


def _check_receiver(services: Services, request: GenerationRequest) -> None:
    if request.webhook_url is None:
        return
    try:
        Url.parse(request.webhook_url)
    except ForbiddenUrl as error:
        raise InvalidRequest(errors=[FieldError("/webhook_url", error.detail)]) from None
    try:
        services.outbound.check(request.webhook_url)
    except ForbiddenUrl as error:
        detail = f"{error.detail} The operator can allow it in SD_WEBHOOK_ALLOW."
        raise InvalidRequest(errors=[FieldError("/webhook_url", detail)]) from None


def _choose_backend(services: Services, fleet: Fleet, request: GenerationRequest) -> Backend:
    backend = request.backend or services.settings.effective_default_backend
    if backend is Backend.NULL and not services.is_configured(backend):
        raise BackendUnavailable("The null backend is switched off; the operator can add it to SD_BACKENDS.")
    if not services.is_offered(fleet, backend):
        if backend is Backend.FLUX_API and backend in services.settings.backends:
            raise BackendUnavailable("flux-api has no key; the operator can set SD_BFL_API_KEY.")
        names = ", ".join(services.settings.backends)
        raise BackendUnavailable(f"No worker serves {backend}; this service has: {names}.")
    return backend


def _require_takers(fleet: Fleet, known: Capabilities, request: GenerationRequest) -> None:
    """Raises InvalidRequest naming who takes images, where the chosen one does not."""
    if not request.image or known.max_input_images:
        return
    known_ones = fleet.capabilities.items()
    takers = [str(backend) for backend, others in known_ones if others.max_input_images]
    takers += [model.model for _, others in known_ones for model in others.choices if model.max_input_images]
    told = f"; {', '.join(takers)} can" if takers else ""
    raise InvalidRequest(errors=[FieldError("/image", f"{known.model} takes no images{told}")])


def _expected_ms(
    services: Services, fleet: Fleet, backend: Backend, request: GenerationRequest, input_size: Size | None
) -> int:
    pace, known = fleet.duration_stats[backend], services.capabilities(fleet, backend)
    if known is None:
        return pace.get("*", 0)
    resolved, _ = known.resolve(request, input_size, services.limits.max_pixels)
    return pace.get(workload_key(known.for_requested_model(request).model, resolved), pace.get("*", 0))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
