"""The job: one accepted request, its moves between states, and its images."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

import uuid_utils.compat

from shared.errors import ImagegenError, InvalidTransition
from shared.jobs.requests import GenerationRequest
from shared.jobs.states import TRANSITIONS, State
from shared.jobs.types import ApiProtocol, Backend, FrozenModel

#: Ids follow the store's clock in steps of this length; within a step, ids of one machine stay in order.
DRIFT_MS = 10_000
#: A job that has ended its worker this often fails.
MAX_WORKER_LOSSES = 3


class Image(FrozenModel):
    """An image on record; its path follows from the job (see ImageStore)."""

    index: int
    media_type: str
    width: int
    height: int
    seed: int
    bytes: int | None
    sha256: str | None
    flagged: bool = False
    """Whether the safety checker objected. A flagged image is withheld: it has no file, bytes or hash."""


class JobError(FrozenModel):
    code: str
    detail: str
    retryable: bool = False

    @classmethod
    def from_error(cls, error: ImagegenError) -> Self:
        return cls(code=error.code, detail=error.detail, retryable=error.retryable)


class ProviderTask(FrozenModel):
    """A task of this job at a provider that charges for it.

    Without an id, it was sent and the provider's answer is not on record.
    """

    id: str | None = None
    polling_url: str | None = None
    cost: float | None = None
    """In the provider's credits."""


class Timings(FrozenModel):
    """Milliseconds."""

    queued_ms: int | None = None
    generate_ms: int | None = None
    encode_ms: int | None = None
    total_ms: int | None = None
    step_ms: float | None = None
    """Mean time of a denoising step, including what precedes the first; None for engines without steps."""
    batch_size: int | None = None
    """Images rendered in the same batch, including those of other jobs; None without other jobs."""
    acceleration: str | None = None
    """The level of SD_OPTIMIZE, and what it did for these images: at `fast` and `max`, a worker with another level
    renders nearly the same pixels from the same seed."""


class Progress(FrozenModel):
    step: int
    steps: int
    fraction: float
    """0 to 1."""
    eta_seconds: float | None = None


class ModelLoad(FrozenModel):
    """Progress of loading a model into memory."""

    model: str
    bytes_done: int
    bytes_total: int
    """0 if unknown."""


class Job(FrozenModel):
    """One accepted request and its result.

    A value: each move returns a new Job and raises InvalidTransition for a move that states.TRANSITIONS does not
    contain. Jobs.move stores it.
    """

    id: str
    state: State = State.QUEUED
    backend: Backend
    owner: str = ""
    """Name of the API key that submitted it; empty where no keys are set."""
    origin: ApiProtocol = ApiProtocol.NATIVE
    """The protocol that it was submitted with."""
    model: str | None = None
    """The model that it runs on; until it starts, the one that it was accepted for, if known."""
    model_revision: str | None = None
    """Identifies the files or the version of that model, if known."""
    request: GenerationRequest
    attempt: int = 0
    """How often it was started; the fencing token of every later move."""
    worker: str | None = None
    """The worker that runs it or ran it last."""
    losses: int = 0
    """How often its worker was lost."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    images: tuple[Image, ...] = ()
    error: JobError | None = None
    warnings: tuple[str, ...] = ()
    timings: Timings = Timings()
    base_url: str = ""
    """Prefix of image links in webhooks, without a trailing slash."""
    reused_from: str | None = None
    """The job whose images it received from the result cache (see SD_REUSE_PICTURES)."""
    traceparent: str = ""
    """Trace context of the request that created it (see shared.observability.tracing)."""
    providers: tuple[ProviderTask, ...] = ()
    """Paid tasks, one for each image in order; every move keeps them (see Jobs.save_provider_tasks)."""

    @classmethod
    def new(
        cls,
        request: GenerationRequest,
        backend: Backend,
        now: datetime,
        owner: str = "",
        base_url: str = "",
        model: str | None = None,
        **details: Any,
    ) -> Self:
        """A queued job. Its id is a UUIDv7: ids sort by creation and cannot be guessed. `now`: by the store's clock."""
        about = {"owner": owner, "base_url": base_url, "model": model, **details}
        return cls(id=_new_id(now), backend=backend, request=request.with_seed(), created_at=now, **about)

    @property
    def seed(self) -> int:
        return self.request.seeds[0]

    @property
    def deadline(self) -> datetime | None:
        """When it must have started."""
        limit = self.request.deadline_seconds
        return self.created_at + timedelta(seconds=limit) if limit is not None else None

    def is_overdue(self, now: datetime) -> bool:
        return self.deadline is not None and self.attempt == 0 and now > self.deadline

    def start(self, model: str, worker: str, now: datetime, revision: str | None = None) -> Self:
        timings = self.timings.model_copy(update={"queued_ms": _milliseconds(now - self.created_at)})
        started = self._move(State.RUNNING, attempt=self.attempt + 1, worker=worker, started_at=now, timings=timings)
        return started.model_copy(update={"model": model, "model_revision": revision})

    @property
    def run_ms(self) -> int | None:
        """From start to end; None for a job that was never started or has not ended."""
        return _milliseconds(self.finished_at - self.started_at) if self.started_at and self.finished_at else None

    @property
    def work_ms(self) -> int | None:
        """Its share of the worker's time; None unless its images were generated for it."""
        if self.state is not State.SUCCEEDED or self.run_ms is None or self.reused_from is not None:
            return None
        num_images = self.request.num_images
        return self.run_ms * num_images // (self.timings.batch_size or num_images)

    def requeue(self, *, lost: bool = False) -> Self:
        """Back to the queue; `lost` counts a lost worker."""
        return self._move(State.QUEUED, started_at=None, losses=self.losses + lost)

    def with_warnings(self, warnings: Iterable[str]) -> Self:
        """The same job with these warnings added, without duplicates."""
        return self.model_copy(update={"warnings": tuple(dict.fromkeys((*self.warnings, *warnings)))})

    def succeed(
        self, images: tuple[Image, ...], timings: Timings, now: datetime, reused_from: str | None = None
    ) -> Self:
        timings = timings.model_copy(update={"queued_ms": self.timings.queued_ms})
        return self._end(State.SUCCEEDED, now, images=images, timings=timings, reused_from=reused_from)

    def fail(self, error: JobError, now: datetime, images: tuple[Image, ...] = ()) -> Self:
        """With the images that were paid for before. A paid job is never retryable: a retry would pay twice."""
        error = error.model_copy(update={"retryable": error.retryable and not self.providers})
        return self._end(State.FAILED, now, error=error, images=images)

    def cancel(self, now: datetime) -> Self:
        return self._end(State.CANCELLED, now)

    def _end(self, state: State, now: datetime, **changes: object) -> Self:
        ended = self._move(state, finished_at=max(now, self.started_at or self.created_at), **changes)
        timings = ended.timings.model_copy(update={"total_ms": _milliseconds(now - self.created_at)})
        return ended.model_copy(update={"timings": timings})

    def _move(self, state: State, **changes: object) -> Self:
        if state not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"The job is {self.state} and cannot become {state}.")
        return self.model_copy(update={"state": state, **changes})


@dataclass(frozen=True)
class QueuedJob:
    """A job at the head of its queue."""

    job: Job
    expected_ms: int
    """Recent duration of similar jobs when it was accepted; 0 if unknown."""


@dataclass(frozen=True)
class QueueHead:
    """What a worker is to start next: the first job, and jobs of the same model that may go with it."""

    jobs: tuple[QueuedJob, ...]
    is_left_to_others: bool
    """Whether there are only jobs that other workers do sooner than this one could load their model."""


def _new_id(now: datetime) -> str:
    """By this machine's clock, which keeps its ids in order, shifted where that clock is far from `now`."""
    local = uuid_utils.compat.uuid7()
    drift = now.timestamp() * 1000 - (local.int >> 80)
    return str(UUID(int=local.int + (round(drift / DRIFT_MS) * DRIFT_MS << 80)))


def _milliseconds(span: timedelta) -> int:
    """Never negative: several machines read the store's clock with different delays."""
    return max(0, round(span.total_seconds() * 1000))
