"""How a worker comes by its jobs: one that it is handed, and those in line that can be rendered with it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.capabilities import Size
from shared.errors import DeadlinePassed, InvalidImage, InvalidRequest, StorageUnavailable
from shared.schemas import Job, JobError
from shared.states import State
from worker.backends.base import Backend, Batching
from worker.inputs import Reader
from worker.records import Ledger
from worker.together import are_alike

logger = logging.getLogger(__name__)

#: How many of those in line are looked at for jobs that can be rendered with the one that is claimed.
LOOKED_AT = 16


@dataclass(frozen=True)
class Claims:
    backend: Backend
    ledger: Ledger
    reader: Reader
    worker: str
    """Its own name, as jobs record it."""
    max_pixels: int | None = None
    """Of a picture whose size follows from one that came with the request."""
    max_batch_size: int = 1
    """Most pictures, of jobs that are alike, to render in one go."""
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def take(self, job_id: str) -> list[Job]:
        """The job and those that go well with it, started; none where it has been done, taken or cancelled meanwhile.

        A job that is on record as running is another worker's, even if its message comes again: the housekeeper
        puts it back in line when that worker is lost. Nobody is waited for.
        """
        batches = isinstance(self.backend, Batching) and self.max_batch_size > 1
        job, waiting = self.ledger.look(job_id, LOOKED_AT if batches else 0)
        if job is None or job.state is not State.QUEUED:
            logger.info("nothing to do: the job is %s", job.state if job else "unknown", extra={"job_id": job_id})
            return []
        first = self._begun(job)
        if first is None:
            return []
        moves = [(job, first), *self._mates(first, waiting)]
        moved = self.ledger.move(moves)
        started = [new for (_, new), is_ours in zip(moves, moved, strict=True) if is_ours]
        if mates := [each for each in started if each.id != job_id]:
            self.ledger.started_together(mates)
        return started

    def _begun(self, job: Job) -> Job | None:
        """The job as it will be on record once it is started; None where it cannot be done, which is put on record."""
        own = self.backend.capabilities
        if job.providers:
            # What was bought was checked before, and is to be had without what came with the request.
            return job.start(job.model or own.model, self.worker, self.now())
        try:
            if job.is_overdue(self.now()):
                raise DeadlinePassed  # noqa: TRY301 - refused like all that cannot be done
            input_size = self.reader.size(job)
            # Nobody could where it came in before a worker had told what it takes.
            own.check(job.request, input_size=input_size)
        except InvalidRequest as error:
            self._refuse(job, _refusal(error))
        except (DeadlinePassed, InvalidImage, StorageUnavailable) as error:
            self._refuse(job, JobError.of(error))
        else:
            return self._started(job, input_size)
        return None

    def _refuse(self, job: Job, error: JobError) -> None:
        if self.ledger.move([(job, job.fail(error, self.now()))])[0]:
            self.reader.store.discard(job)

    def _started(self, job: Job, input_size: Size | None) -> Job:
        own = self.backend.capabilities
        request, warnings = own.resolve(job.request, input_size, self.max_pixels)
        # A later attempt has a request that is resolved, and no longer tells what the caller left out.
        told = job.warnings if job.attempt else warnings
        started = job.start(own.chosen(job.request).model, self.worker, self.now())
        return started.model_copy(update={"request": request, "warnings": told})

    def _mates(self, first: Job, waiting: Sequence[Job]) -> Iterator[tuple[Job, Job]]:
        """Jobs that can be rendered in one go with this one: as they wait, and as they will be on record."""
        room = self._room(first) if waiting else 0
        for job in waiting:
            if job.id == first.id or job.request.num_images > room or not self._may_go_with(first, job):
                continue
            mate = self._begun(job)
            if mate is not None and are_alike(first.request, mate.request):
                room -= mate.request.num_images
                yield job, mate

    def _room(self, job: Job) -> int:
        """How many pictures of other jobs fit in one go with this one's.

        A job that has cost a worker before is done alone: it may take others along.
        """
        if not isinstance(self.backend, Batching) or job.attempt > 1:
            return 0
        try:
            most = self.backend.most_together(job.request)
        except Exception:
            logger.exception("how many pictures fit in one go is not known; job %s is made alone", job.id)
            return 0
        return min(self.max_batch_size, most) - job.request.num_images

    def _may_go_with(self, job: Job, waiting: Job) -> bool:
        own, request = self.backend.capabilities, job.request
        if own.chosen(waiting.request) != own.chosen(request):
            return False
        # As if its picture were of the right size: those of jobs that differ anyway are not fetched.
        size = (request.width, request.height) if waiting.request.image and request.width and request.height else None
        return are_alike(request, own.resolve(waiting.request, size, self.max_pixels)[0])


def _refusal(error: InvalidRequest) -> JobError:
    reasons = "; ".join(f"{field.pointer[1:]} {field.detail}" for field in error.errors)
    return JobError(code=error.code, detail=f"{error.detail} {reasons}".strip())
