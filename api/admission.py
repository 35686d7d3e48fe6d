"""How jobs come in, and how they are withdrawn."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Header

from api.callers import Caller, CallerDep
from api.events import read
from api.services import Services
from api.uploads import Uploads
from shared import tracing
from shared.capabilities import Capabilities, Size
from shared.errors import (
    BackendUnavailable,
    FieldError,
    ForbiddenUrl,
    IdempotencyMismatch,
    InvalidRequest,
    InvalidTransition,
    JobNotFound,
    QueueFull,
)
from shared.jobs import Admission, Ceiling, JobSnapshot, OnRepeat, Outcome, Repeat, kind_of_work
from shared.schemas import Backend, GenerationRequest, Job
from shared.states import State
from shared.upkeep import Upkeep
from shared.workers import Fleet

IDEMPOTENCY_KEY = r"[\x21-\x7e]{1,255}"
#: How long an Idempotency-Key is remembered.
KEY_MS = 24 * 3600 * 1000
#: How long a retry without a key finds the request that it repeats: longer than clients take to give up and try again.
RETRY_MS = 15 * 60 * 1000


@dataclass(frozen=True)
class Repetition:
    """What a caller says about whether it has asked before."""

    caller: str
    key: str | None
    retry_count: str | None

    def of(self, request: GenerationRequest) -> Repeat | None:
        """How this request would be recognised; None when it never will be.

        SDKs that retry without a key number their attempts: the first makes a job, later ones get that job.
        """
        request_hash = _hash(request.model_dump_json())
        if self.key is not None:
            return Repeat(_hash(f"key {self.caller} {self.key}"), request_hash, OnRepeat.SAME, KEY_MS)
        if self.retry_count is None:
            return None
        on_repeat = OnRepeat.NEW if self.retry_count == "0" else OnRepeat.AGAIN
        return Repeat(_hash(f"retry {self.caller} {request_hash}"), request_hash, on_repeat, RETRY_MS)


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
) -> Repetition:
    if idempotency_key is not None and not re.fullmatch(IDEMPOTENCY_KEY, idempotency_key):
        wrong = FieldError("/Idempotency-Key", "must be 1 to 255 visible ASCII characters")
        raise InvalidRequest(errors=[wrong])
    return Repetition(caller.account, idempotency_key, x_stainless_retry_count)


RepetitionDep = Annotated[Repetition, Depends(_repetition)]


async def draft(
    services: Services, caller: Caller, request: GenerationRequest, base_url: str, input_size: Size | None = None
) -> tuple[Job, int]:
    """The job that the request would become, and how many milliseconds it will probably take (0: not known).

    `input_size` is that of the first picture that the request brings.

    Raises BackendUnavailable where nobody would ever take it, InvalidRequest, StorageFull and StoreUnavailable.
    """
    _check_receiver(services, request)
    await services.disk.require_room()
    # The answer needs it; later, a store that is away would be told to the caller of a job that is already accepted.
    await services.link_secret.signer()
    fleet = await services.watch.fleet()
    backend = _choose_backend(services, fleet, request)
    known = services.capabilities(fleet, backend)
    if known:
        _require_takers(fleet, known.chosen(request), request)
        known.check(request, services.limits, input_size)
    else:
        services.limits.check(request)
    # Whoever is told of the job without asking has no request of its own that links could begin like.
    links = base_url if request.webhook_url is not None else ""
    job = Job.new(request, backend, datetime.now(UTC), caller.owner, links)
    job = job.model_copy(update={"traceparent": tracing.current()})
    return job, _expected_ms(services, fleet, backend, request, input_size)


async def admit(
    services: Services, caller: Caller, job: Job, expected_ms: int, repeat: Repeat | None, uploads: Uploads
) -> Admission:
    """Accept the job: from here on it is not lost.

    Raises RateLimited, QueueFull, IdempotencyMismatch and StoreUnavailable.
    """
    if job.request.image:
        await services.store.run(Upkeep(services.settings.redis_prefix).uploads_come(job.id))
    await uploads.keep(job)
    # Where the store does not answer, nobody knows whether there is a job now: its pictures stay, and the housekeeper
    # removes them if there is none.
    admission = await _create(services, caller, job, expected_ms, repeat)
    if admission.outcome is not Outcome.CREATED:
        await services.intake.discard(job)
    match admission.outcome:
        case Outcome.FULL:
            raise QueueFull
        case Outcome.CROWDED:
            raise QueueFull("This key has as many jobs waiting or running as it may; try again when some are done.")
        case Outcome.MISMATCH:
            raise IdempotencyMismatch
        case Outcome.CREATED | Outcome.KNOWN:
            return admission


async def _create(services: Services, caller: Caller, job: Job, expected_ms: int, repeat: Repeat | None) -> Admission:
    message = services.queue.message(job.id, job.backend, job.request.priority)
    settings = services.settings
    per_backend = settings.max_queued_jobs_per_backend or settings.max_queued_jobs
    ceiling = Ceiling(settings.max_queued_jobs, per_backend, settings.max_jobs_per_key)
    return await services.ask(caller, services.jobs.create(job, message, ceiling, repeat, expected_ms))


async def withdraw(services: Services, job_id: str) -> JobSnapshot:
    """Cancel: a queued job at once, a running one at its next step. Raises InvalidTransition for one that has ended."""
    while True:
        state = await services.store.run(services.jobs.ask_to_cancel(job_id))
        if state is None:
            raise JobNotFound
        snapshot = await read(services.store, services.jobs, job_id)
        job = snapshot.job
        match job.state:
            case State.RUNNING:
                return snapshot
            case State.QUEUED:
                cancelled = job.cancel(datetime.now(UTC))
                # Lost to a worker that started it meanwhile: ask again, that worker will hear it.
                if await services.store.run(services.jobs.move(job, cancelled)):
                    await services.intake.discard(job)
                    return JobSnapshot(cancelled)
            case _:
                raise InvalidTransition(f"The job has already {_ENDED[job.state]}.")


_ENDED = {State.SUCCEEDED: "succeeded", State.FAILED: "failed", State.CANCELLED: "been cancelled"}


def _check_receiver(services: Services, request: GenerationRequest) -> None:
    if request.webhook_url is None:
        return
    try:
        services.guard.check(request.webhook_url)
    except ForbiddenUrl as error:
        raise InvalidRequest(errors=[FieldError("/webhook_url", error.detail)]) from None


def _choose_backend(services: Services, fleet: Fleet, request: GenerationRequest) -> Backend:
    backend = request.backend or services.settings.fallback_backend
    if backend is Backend.NULL and not services.is_configured(backend):
        raise BackendUnavailable("The null backend is switched off; the operator can add it to SD_BACKENDS.")
    if not services.is_known(fleet, backend):
        if backend is Backend.FLUX_API and backend in services.settings.backends:
            raise BackendUnavailable("flux-api has no key; the operator can set SD_BFL_API_KEY.")
        names = ", ".join(services.settings.backends)
        raise BackendUnavailable(f"No worker serves {backend}; this service has: {names}.")
    return backend


def _require_takers(fleet: Fleet, known: Capabilities, request: GenerationRequest) -> None:
    """Raises InvalidRequest naming who takes pictures, where the chosen one does not."""
    if not request.image or known.max_input_images:
        return
    known_ones = fleet.capabilities.items()
    takers = [str(backend) for backend, others in known_ones if others.max_input_images]
    takers += [model.model for _, others in known_ones for model in others.choices if model.max_input_images]
    told = f"; {', '.join(takers)} can" if takers else ""
    raise InvalidRequest(errors=[FieldError("/image", f"{known.model} takes no pictures{told}")])


def _expected_ms(
    services: Services, fleet: Fleet, backend: Backend, request: GenerationRequest, input_size: Size | None
) -> int:
    pace, known = fleet.pace[backend], services.capabilities(fleet, backend)
    if known is None:
        return pace.get("*", 0)
    resolved, _ = known.resolve(request, input_size, services.limits.max_pixels)
    return pace.get(kind_of_work(known.chosen(request).model, resolved), pace.get("*", 0))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
