"""How a worker comes by its jobs: the next in the queue, and those behind it that can be rendered with it."""

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

#: How many queued jobs are looked at for the next one, and for those that can be rendered with it.
LOOKED_AT = 16
#: Share of the time limit that jobs which are rendered together may be expected to take.
EXPECTED_SHARE = 0.5


@dataclass(frozen=True)
class JobClaimer:
    """Safe to share between threads where the backend is."""

    engine: Engine
    job_store: JobStore
    reader: InputReader
    worker: str
    """Its id, as jobs record it."""
    max_pixels: int | None = None
    """Of an image whose size follows from one that came with the request."""
    max_batch_size: int = 1
    """Most images, of jobs that are alike, to render in one go."""
    time_limit_seconds: float = math.inf
    """How long a job may take."""
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _under_way: set[str] = field(default_factory=set)
    """Jobs that threads of this process are about to start."""

    def claim(self) -> list[Job]:
        """The next job and those that go well with it, started; none where none is queued. Nobody is waited for."""
        tried: set[str] = set()
        while waiting := self._next(tried):
            next_one, *others = waiting
            tried.add(next_one.job.id)
            try:
                if started := self._start(next_one, others):
                    return started
            finally:
                self._under_way.discard(next_one.job.id)
        return []

    def _next(self, tried: Set[str]) -> Sequence[QueuedJob]:
        """The head of the queue, of which the first is this thread's to start."""
        # Threads that look at the same time would all want the same job.
        with self._lock:
            queued = self.job_store.peek(LOOKED_AT + len(self._under_way))
            waiting = [each for each in queued if each.job.id not in tried | self._under_way]
            if waiting:
                self._under_way.add(waiting[0].job.id)
            return waiting

    def _start(self, next_one: QueuedJob, others: Sequence[QueuedJob]) -> list[Job]:
        """Empty where the job cannot be done, or another worker was faster."""
        now = self.now()
        first = self._begun(next_one.job, now)
        if first is None:
            return []
        moves = [(next_one.job, first), *self._mates(first, next_one.expected_ms, others, now)]
        moved = self.job_store.move(moves)
        return [new for (_, new), is_ours in zip(moves, moved, strict=True) if is_ours]

    def _begun(self, job: Job, now: datetime) -> Job | None:
        """The job as it will be on record once it is started; None where it cannot be done, which is put on record."""
        own = self.engine.capabilities
        if job.providers:
            # What was bought was checked before, and is to be had without what came with the request.
            return job.start(job.model or own.model, self.worker, now)
        try:
            if job.is_overdue(now):
                raise DeadlinePassed  # noqa: TRY301 - refused like all that cannot be done
            input_size = self.reader.first_image_size(job)
            # Nobody could where it came in before a worker had told what it takes.
            own.check(job.request, input_size=input_size)
        except InvalidRequest as error:
            self._refuse(job, _refusal(error))
        except (DeadlinePassed, InvalidImage, StorageUnavailable) as error:
            self._refuse(job, JobError.from_error(error))
        else:
            return self._started(job, input_size, now)
        return None

    def _refuse(self, job: Job, error: JobError) -> None:
        if self.job_store.move([(job, job.fail(error, self.now()))])[0]:
            self.reader.store.discard(job)

    def _started(self, job: Job, input_size: Size | None, now: datetime) -> Job:
        own = self.engine.capabilities
        request, warnings = own.resolve(job.request, input_size, self.max_pixels)
        # A later attempt has a request that is resolved, and no longer tells what the caller left out.
        told = job.warnings if job.attempt else warnings
        started = job.start(own.for_requested_model(job.request).model, self.worker, now)
        return started.model_copy(update={"request": request, "warnings": told})

    def _mates(
        self, first: Job, expected_ms: int, others: Sequence[QueuedJob], now: datetime
    ) -> Iterator[tuple[Job, Job]]:
        """Jobs that can be rendered in one go with this one: as they wait, and as they will be on record."""
        room = self._room(first, expected_ms) if others else 0
        for job in (waiting.job for waiting in others):
            # A job that has cost a worker before is done alone: it may take others along.
            if job.attempt or job.request.num_images > room or not self._may_go_with(first, job):
                continue
            mate = self._begun(job, now)
            if mate is not None and are_alike(first.request, mate.request):
                room -= mate.request.num_images
                yield job, mate

    def _room(self, job: Job, expected_ms: int) -> int:
        """How many images of other jobs fit in one go with this one's: in memory, and in the time limit of one."""
        if not isinstance(self.engine, BatchEngine) or self.max_batch_size == 1 or job.attempt > 1:
            return 0
        try:
            most = self.engine.batch_capacity(job.request)
        except Exception:
            logger.exception("how many images fit in one go is not known; job %s is made alone", job.id)
            return 0
        own = job.request.num_images
        if expected_ms and self.time_limit_seconds < math.inf:
            most = min(most, int(EXPECTED_SHARE * self.time_limit_seconds * 1000 * own / expected_ms))
        return min(self.max_batch_size, most) - own

    def _may_go_with(self, job: Job, waiting: Job) -> bool:
        own, request = self.engine.capabilities, job.request
        if own.for_requested_model(waiting.request) != own.for_requested_model(request):
            return False
        # As if its image were of the right size: those of jobs that differ anyway are not fetched.
        size = (request.width, request.height) if waiting.request.image and request.width and request.height else None
        return are_alike(request, own.resolve(waiting.request, size, self.max_pixels)[0])


def _refusal(error: InvalidRequest) -> JobError:
    reasons = "; ".join(f"{field.pointer[1:]} {field.detail}" for field in error.errors)
    return JobError(code=error.code, detail=f"{error.detail} {reasons}".strip())
