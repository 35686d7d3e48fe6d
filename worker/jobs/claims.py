"""Claiming jobs: the next one in the queue, and those behind it that can be rendered in the same batch."""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.errors import DeadlinePassed, InvalidImage, InvalidRequest, StorageUnavailable
from shared.jobs.job import Job, JobError, QueuedJob
from shared.models.capabilities import Size
from worker.engines.base import BatchEngine, Engine
from worker.images.inputs import InputReader
from worker.jobs.batching import are_alike
from worker.jobs.job_store import JobStore

logger = logging.getLogger(__name__)

#: How many queued jobs are examined for the next job and its batch.
PEEK_LIMIT = 16
#: Share of the time limit that a batch may be expected to take.
EXPECTED_SHARE = 0.5


@dataclass(frozen=True)
class JobClaimer:
    """Thread-safe if the engine is."""

    engine: Engine
    job_store: JobStore
    reader: InputReader
    worker: str
    """Id of the worker, as jobs record it."""
    max_pixels: int | None = None
    """Limit for an image whose size follows from an input image."""
    max_batch_size: int = 1
    """Most images to render in one batch."""
    time_limit_seconds: float = math.inf
    """How long a job may take."""
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _starting: set[str] = field(default_factory=set)
    """Jobs that threads of this process are about to start."""

    def claim(self) -> list[Job]:
        """Start the next job and those that fit into its batch. Return none if none is queued; never wait."""
        tried: set[str] = set()
        while queued := self._peek(tried):
            candidate, *others = queued
            tried.add(candidate.job.id)
            try:
                if started := self._start(candidate, others):
                    return started
            finally:
                self._starting.discard(candidate.job.id)
        return []

    def _peek(self, tried: Set[str]) -> Sequence[QueuedJob]:
        """Return the head of the queue; its first job is reserved for this thread."""
        # Without the lock, threads that peek at the same time would all try the same job.
        with self._lock:
            head = self.job_store.peek(PEEK_LIMIT + len(self._starting))
            queued = [entry for entry in head if entry.job.id not in tried | self._starting]
            if queued:
                self._starting.add(queued[0].job.id)
            return queued

    def _start(self, candidate: QueuedJob, others: Sequence[QueuedJob]) -> list[Job]:
        """Return no job if the candidate cannot be done or another worker was faster."""
        now = self.now()
        first = self._prepare(candidate.job, now)
        if first is None:
            return []
        moves = [(candidate.job, first), *self._batch_members(first, candidate.expected_ms, others, now)]
        started = self.job_store.move(moves)
        return [job for (_, job), is_started in zip(moves, started, strict=True) if is_started]

    def _prepare(self, job: Job, now: datetime) -> Job | None:
        """Return the job as it will be recorded when it starts; None, and fail the job, if it cannot be done."""
        capabilities = self.engine.capabilities
        if job.providers:
            # Its provider tasks were checked before they were bought, and their images need no inputs.
            return job.start(job.model or capabilities.model, self.worker, now)
        try:
            if job.is_overdue(now):
                raise DeadlinePassed  # noqa: TRY301 - fails like every job that cannot be done
            input_size = self.reader.first_image_size(job)
            # The API could not check it if no worker had yet published its capabilities.
            capabilities.check(job.request, input_size=input_size)
        except InvalidRequest as error:
            self._fail(job, _job_error(error))
        except (DeadlinePassed, InvalidImage, StorageUnavailable) as error:
            self._fail(job, JobError.from_error(error))
        else:
            return self._resolve(job, input_size, now)
        return None

    def _fail(self, job: Job, error: JobError) -> None:
        if self.job_store.move([(job, job.fail(error, self.now()))])[0]:
            self.reader.store.discard(job)

    def _resolve(self, job: Job, input_size: Size | None, now: datetime) -> Job:
        capabilities = self.engine.capabilities
        request, warnings = capabilities.resolve(job.request, input_size, self.max_pixels)
        started = job.start(capabilities.for_requested_model(job.request).model, self.worker, now)
        # A later attempt finds the request resolved, which no longer shows what the caller left out.
        return started.model_copy(update={"request": request}).with_warnings(() if job.attempt else warnings)

    def _batch_members(
        self, first: Job, expected_ms: int, others: Sequence[QueuedJob], now: datetime
    ) -> Iterator[tuple[Job, Job]]:
        """Yield the jobs that fit into the batch: as they are queued, and as they will be recorded."""
        capacity = self._remaining_capacity(first, expected_ms) if others else 0
        for job in (queued.job for queued in others):
            # A job that has cost a worker before is rendered alone: it could take the others down.
            if job.attempt or job.request.num_images > capacity or not self._may_join(first, job):
                continue
            member = self._prepare(job, now)
            if member is not None and are_alike(first.request, member.request):
                capacity -= member.request.num_images
                yield job, member

    def _remaining_capacity(self, job: Job, expected_ms: int) -> int:
        """Return how many more images fit into the job's batch, by memory and by the time limit."""
        if not isinstance(self.engine, BatchEngine) or self.max_batch_size == 1 or job.attempt > 1:
            return 0
        try:
            capacity = self.engine.batch_capacity(job.request)
        except Exception:
            logger.exception("the engine could not tell its batch capacity; job %s is rendered alone", job.id)
            return 0
        num_images = job.request.num_images
        if expected_ms and self.time_limit_seconds < math.inf:
            budget_ms = EXPECTED_SHARE * self.time_limit_seconds * 1000
            capacity = min(capacity, int(budget_ms * num_images / expected_ms))
        return min(self.max_batch_size, capacity) - num_images

    def _may_join(self, first: Job, job: Job) -> bool:
        capabilities, request = self.engine.capabilities, first.request
        if capabilities.for_requested_model(job.request) != capabilities.for_requested_model(request):
            return False
        # Assume that its input image has the right size: images of jobs that differ anyway are not fetched.
        size = (request.width, request.height) if job.request.image and request.width and request.height else None
        return are_alike(request, capabilities.resolve(job.request, size, self.max_pixels)[0])


def _job_error(error: InvalidRequest) -> JobError:
    reasons = "; ".join(f"{field.pointer[1:]} {field.detail}" for field in error.errors)
    return JobError(code=error.code, detail=f"{error.detail} {reasons}".strip())
