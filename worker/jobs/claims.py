"""Claiming jobs: the next one in the queue, and those behind it that can be rendered in the same batch."""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.errors import (
    DeadlinePassed,
    ImagegenError,
    InvalidImage,
    InvalidRequest,
    ModelNotFound,
    RequestError,
    StorageUnavailable,
)
from shared.jobs.job import Job, JobError, QueuedJob
from shared.models.capabilities import Capabilities, Size
from worker.engines.base import BatchEngine, Engine, EngineSource, OnLoad
from worker.images.inputs import InputReader
from worker.jobs.batching import are_alike
from worker.jobs.job_store import JobStore

logger = logging.getLogger(__name__)

#: How many queued jobs are examined for the next job and its batch.
PEEK_LIMIT = 16
#: Share of the time limit that a batch may be expected to take.
EXPECTED_SHARE = 0.5


@dataclass(frozen=True)
class Claim:
    """Jobs that have started, and the engine that has their model in memory."""

    jobs: Sequence[Job]
    engine: Engine
    capabilities: Capabilities
    """Those of the model of the jobs."""
    fingerprint: str | None = None
    """Identifies the model and how it runs, if images of earlier jobs may be reused."""


@dataclass(frozen=True)
class JobClaimer:
    """Thread-safe if the engines are."""

    engines: EngineSource
    job_store: JobStore
    reader: InputReader
    worker: str
    """Id of the worker, as jobs record it."""
    max_pixels: int | None = None
    """Limit for an image whose size follows from an input image."""
    max_batch_size: int = 1
    """Maximum images in a batch."""
    time_limit_seconds: float = math.inf
    """How long a job may take."""
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _starting: set[str] = field(default_factory=set)
    """Jobs that threads of this process are about to start."""

    @contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """Start the next job and those that fit into its batch; their model stays in memory during the block.

        None if no job is queued for this worker. Never waits, except for a model that has to be loaded.
        """
        with ExitStack() as engines:
            yield self._claim(engines)

    def _claim(self, engines: ExitStack) -> Claim | None:
        tried: set[str] = set()
        while queued := self._peek(tried):
            candidate, *others = queued
            tried.add(candidate.job.id)
            try:
                with ExitStack() as use:
                    if (claim := self._start(candidate, others, use)) is not None:
                        engines.push(use.pop_all())
                        return claim
                if not self._is_known(model := self._model_of(candidate.job)):
                    # A long queue for another machine is not tried one by one.
                    tried.add(model)
            finally:
                self._starting.discard(candidate.job.id)
        return None

    def _peek(self, tried: Set[str]) -> Sequence[QueuedJob]:
        """Return jobs in the order in which they are to start; the first one is reserved for this thread."""
        # Without the lock, threads that peek at the same time would all try the same job.
        with self._lock:
            head = self.job_store.peek(PEEK_LIMIT + len(self._starting), self._loaded(), tried)
            queued = [entry for entry in head if entry.job.id not in tried | self._starting]
            if queued:
                self._starting.add(queued[0].job.id)
            return queued

    def _loaded(self) -> Set[str] | None:
        """Models that need no loading; '' stands for the default model, which requests need not name."""
        loaded = self.engines.loaded
        return loaded | {""} if loaded is not None and self.engines.default_model in loaded else loaded

    def _start(self, candidate: QueuedJob, others: Sequence[QueuedJob], use: ExitStack) -> Claim | None:
        """Start no job if the candidate cannot be done or another worker was faster."""
        model = self._model_of(candidate.job)
        if self._prepare(candidate.job, model, self.now()) is None:
            return None
        try:
            engine = use.enter_context(self.engines.use(model, self._load_report(model, [candidate, *others])))
        except ImagegenError as error:
            self._fail(candidate.job, JobError.from_error(error))
            return None
        # Again: loading may have taken longer than its deadline allows.
        # Each process reads the store's clock with a delay of its own, but no job starts before it was created.
        now = max(self.now(), *(queued.job.created_at for queued in (candidate, *others)))
        first = self._prepare(candidate.job, model, now)
        if first is None:
            return None
        moves = [(candidate.job, first), *self._batch_members(first, engine, candidate.expected_ms, others, now)]
        started = self.job_store.move(moves)
        jobs = [job for (_, job), is_started in zip(moves, started, strict=True) if is_started]
        return Claim(jobs, engine, self.engines.capabilities(model)) if jobs else None

    def _load_report(self, model: str, waiting: Sequence[QueuedJob]) -> OnLoad:
        """Tells the jobs that wait for a model how far it is loaded."""
        jobs = [queued.job for queued in waiting if self._model_of(queued.job) == model]
        return lambda done, total: self.job_store.report_load(jobs, model, done, total)

    def _model_of(self, job: Job) -> str:
        """The model that the request names, else that of an earlier attempt, else the default."""
        default, request = self.engines.default_model, job.request
        if request.model is not None:
            return request.model
        ignores_name = "bfl_model" in self.engines.capabilities(default).ignored
        name = request.bfl_model or job.model
        if name is None or (ignores_name and not self._is_known(name)):
            return default
        return name

    def _is_known(self, model: str) -> bool:
        try:
            self.engines.capabilities(model)
        except ModelNotFound:
            return False
        except RequestError:
            return True
        return True

    def _prepare(self, job: Job, model: str, now: datetime) -> Job | None:
        """Return the job as it will be recorded when it starts; None, and fail the job, if it cannot be done."""
        if job.providers:
            # Its provider tasks were checked before they were bought, and their images need no inputs.
            return job.start(job.model or model, self.worker, now)
        try:
            if job.is_overdue(now):
                raise DeadlinePassed  # noqa: TRY301 - fails like every job that cannot be done
            capabilities = self.engines.capabilities(model)
            input_size = self.reader.first_image_size(job)
            # The API could not check it if no worker had yet published its capabilities.
            capabilities.check(job.request, input_size=input_size)
            return self._resolve(job, capabilities, input_size, now)
        except InvalidRequest as error:
            self._fail(job, _job_error(error))
        except ModelNotFound as error:
            # On another machine it may be in the folder: its workers take the job.
            if not self.job_store.is_elsewhere(model):
                self._fail(job, JobError.from_error(error))
        except (DeadlinePassed, InvalidImage, RequestError, StorageUnavailable) as error:
            self._fail(job, JobError.from_error(error))
        return None

    def _fail(self, job: Job, error: JobError) -> None:
        if self.job_store.move([(job, job.fail(error, self.now()))])[0]:
            self.reader.store.discard(job)

    def _resolve(self, job: Job, capabilities: Capabilities, input_size: Size | None, now: datetime) -> Job:
        request, warnings = capabilities.resolve(job.request, input_size, self.max_pixels)
        model = capabilities.model
        started = job.start(model, self.worker, now, self.engines.revision(model))
        # A later attempt finds the request resolved, which no longer shows what the caller left out.
        return started.model_copy(update={"request": request}).with_warnings(() if job.attempt else warnings)

    def _batch_members(
        self, first: Job, engine: Engine, expected_ms: int, others: Sequence[QueuedJob], now: datetime
    ) -> Iterator[tuple[Job, Job]]:
        """Yield the jobs that fit into the batch: as they are queued, and as they will be recorded.

        All start at the same time: by that, JobRecovery knows which jobs were in a batch.
        """
        capacity = self._remaining_capacity(first, engine, expected_ms) if others else 0
        for job in (queued.job for queued in others):
            # A job that has cost a worker before is rendered alone: it could take the others down.
            if job.attempt or job.request.num_images > capacity or not self._may_join(first, job):
                continue
            member = self._prepare(job, first.model or "", now)
            if member is not None and are_alike(first.request, member.request):
                capacity -= member.request.num_images
                yield job, member

    def _remaining_capacity(self, job: Job, engine: Engine, expected_ms: int) -> int:
        """Return how many more images fit into the job's batch, by memory and by the time limit."""
        if not isinstance(engine, BatchEngine) or self.max_batch_size == 1 or job.attempt > 1:
            return 0
        try:
            capacity = engine.batch_capacity(job.request)
        except Exception:
            logger.exception("the batch capacity of the engine is unknown; job %s is rendered alone", job.id)
            return 0
        num_images = job.request.num_images
        if expected_ms and self.time_limit_seconds < math.inf:
            budget_ms = EXPECTED_SHARE * self.time_limit_seconds * 1000
            capacity = min(capacity, int(budget_ms * num_images / expected_ms))
        return min(self.max_batch_size, capacity) - num_images

    def _may_join(self, first: Job, job: Job) -> bool:
        request = first.request
        if first.model is None or self._model_of(job) != first.model:
            return False
        # Assume that its input image has the right size: images of jobs that differ anyway are not fetched.
        size = (request.width, request.height) if job.request.image and request.width and request.height else None
        capabilities = self.engines.capabilities(first.model)
        return are_alike(request, capabilities.resolve(job.request, size, self.max_pixels)[0])


def _job_error(error: InvalidRequest) -> JobError:
    reasons = "; ".join(f"{field.pointer[1:]} {field.detail}" for field in error.errors)
    return JobError(code=error.code, detail=f"{error.detail} {reasons}".strip())
