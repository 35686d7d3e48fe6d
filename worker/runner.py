"""The life of jobs in a worker: claim, render, encode, store, record."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from shared import logs
from shared.capabilities import Capabilities, Size
from shared.errors import (
    ContentRejected,
    DeadlinePassed,
    ImagegenError,
    InternalError,
    InvalidImage,
    InvalidOutput,
    InvalidRequest,
    StorageUnavailable,
)
from shared.images import ImageStore
from shared.schemas import Backend as BackendName
from shared.schemas import GenerationRequest, Image, Job, JobError, Timings
from shared.states import State
from shared.tracing import Tracing, Untraced
from worker.backends.base import Backend, Batching, Picture, Pixels
from worker.finishing import AtOnce, Finishing
from worker.follower import Follower, JobCancelled, JobLost, Line, WorkerLeaves
from worker.inputs import Reader
from worker.pictures import Encoder
from worker.together import Together, are_alike
from worker.trail import Trail, span_of

logger = logging.getLogger(__name__)

WITHHELD = "The safety checker objects to what was made; another prompt or seed may give something else."
#: How many of those in line are looked at for jobs that can be rendered with the one that was claimed.
LOOKED_AT = 16


class Ledger(Protocol):
    """Where jobs are on record."""

    def read(self, job_id: str) -> Job | None: ...

    def move(self, old: Job, new: Job) -> bool:
        """Compare-and-set, retried until the record keeper answers. False when the job was moved by somebody else."""
        ...

    def note(self, job: Job) -> bool:
        """Put its `providers` on record, retried like a move. False when the job is no longer this worker's."""
        ...

    def waiting(self, backend: BackendName, most: int) -> Sequence[Job]:
        """The first in line that nobody has started; fewer or none where the record keeper does not answer."""
        ...

    def started_together(self, jobs: Sequence[Job]) -> None:
        """These were started without having been handed out: nobody else is to be handed them."""
        ...

    def open_line(self, job: Job) -> AbstractContextManager[Line]: ...


class Repeats(Protocol):
    """Jobs whose pictures can be given again."""

    def find(self, job: Job) -> Job | None:
        """One that ended well, and whose pictures are those that this one would get."""
        ...

    def remember(self, job: Job) -> None:
        """One that has ended."""
        ...


@dataclass(eq=False)
class Rendering:
    """A job of this worker's, and what came of rendering it."""

    job: Job
    follower: Follower
    pictures: Sequence[Picture] = ()
    error: Exception | None = None
    milliseconds: int = 0
    batch_size: int | None = None
    trail: Trail = field(default_factory=Trail)


@dataclass
class Runner:
    """Safe to share between threads where the backend is."""

    backend: Backend
    ledger: Ledger
    images: ImageStore
    encoder: Encoder
    worker: str
    """Its own name, as jobs record it."""
    max_pixels: int | None = None
    """Of a picture whose size follows from one that came with the request."""
    max_image_pixels: int = 25_000_000
    """Of a picture that came with a request."""
    max_batch_size: int = 1
    """Most pictures, of jobs that are alike, to render in one go."""
    repeats: Repeats | None = None
    """None makes every picture anew."""
    finish: Finishing = field(default_factory=AtOnce)
    tracing: Tracing = field(default_factory=Untraced)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    leaving: threading.Event = field(default_factory=threading.Event)
    """Once set, every job that runs is left where it is as soon as that costs nothing."""
    retiring: threading.Event = field(default_factory=threading.Event)
    """Set by a job that leaves behind a process which is not fit for another one."""

    def run(self, job_id: str) -> None:
        """Do the job unless it has been done, taken or cancelled meanwhile, and those in line that go well with it.

        A job that is on record as running is another worker's, even if its message comes again: the housekeeper
        puts it back in line when that worker is lost.
        """
        job = self.ledger.read(job_id)
        if job is None or job.state is not State.QUEUED:
            logger.info("nothing to do: the job is %s", job.state if job else "unknown", extra={"job_id": job_id})
            return
        started = self._claim(job)
        if started is None:
            return
        with ExitStack() as lines:
            jobs = [started, *self._mates(started)]
            renderings = [self._rendering(job, lines, len(jobs)) for job in jobs]
            self._render(renderings)
            self.finish([partial(self._conclude, each) for each in renderings], lines.pop_all().close)

    def _claim(self, job: Job) -> Job | None:
        """The job as this worker's, unless somebody else was faster, it cannot be done, or its pictures are there."""
        if job.is_overdue(self.now()):
            self._refuse(job, JobError.of(DeadlinePassed()))
            return None
        try:
            input_size = self._reader.size(job)
            # Nobody could where it came in before a worker had told what it takes.
            self.backend.capabilities.check(job.request, input_size=input_size)
        except InvalidRequest as error:
            self._refuse(job, _refusal(error))
            return None
        except (InvalidImage, StorageUnavailable) as error:
            self._refuse(job, JobError.of(error))
            return None
        started = self._start(job, input_size)
        return None if started is None or self._is_made(started) else started

    def _mates(self, job: Job) -> list[Job]:
        """Jobs that wait and can be rendered in one go with this one, now this worker's too. None is waited for.

        A job that has cost a worker before is done alone: it may take others along.
        """
        room, mates = self._room(job), list[Job]()
        for waiting in self.ledger.waiting(job.backend, LOOKED_AT) if room > 0 else ():
            fits = waiting.request.num_images <= room and self._goes_with(job, waiting)
            if fits and (mate := self._claim(waiting)) is not None:
                mates.append(mate)
                room -= mate.request.num_images
        if mates:
            self.ledger.started_together(mates)
        return mates

    def _room(self, job: Job) -> int:
        """How many pictures of other jobs fit in one go with this one's."""
        if not isinstance(self.backend, Batching) or job.request.image or job.attempt > 1:
            return 0
        try:
            most = self.backend.most_together(job.request)
        except Exception:
            logger.exception("how many pictures fit in one go is not known; job %s is made alone", job.id)
            return 0
        return min(self.max_batch_size, most) - job.request.num_images

    def _goes_with(self, job: Job, waiting: Job) -> bool:
        own = self.backend.capabilities
        if waiting.request.image or own.chosen(waiting.request) != own.chosen(job.request):
            return False
        return are_alike(job.request, own.resolve(waiting.request, None, self.max_pixels)[0])

    @property
    def _reader(self) -> Reader:
        return Reader(self.images.inputs, self.max_image_pixels)

    def _refuse(self, job: Job, error: JobError) -> None:
        """Fail a job that was not started."""
        if self.ledger.move(job, job.fail(error, self.now())):
            self.images.inputs.discard(job)

    def _start(self, job: Job, input_size: Size | None) -> Job | None:
        request, warnings = self.backend.capabilities.resolve(job.request, input_size, self.max_pixels)
        started = job.start(self.backend.capabilities.chosen(job.request).model, self.worker, self.now())
        # A later attempt has a request that is resolved, and no longer tells what the caller left out.
        told = job.warnings if job.attempt else warnings
        started = started.model_copy(update={"request": request, "warnings": told})
        return started if self.ledger.move(job, started) else None

    def _is_made(self, job: Job) -> bool:
        """Whether its pictures are there, and so it is done: an attempt before this one made them, or a job like it."""
        if images := self.images.made(job) if job.attempt > 1 else None:
            self._record(job, job.succeed(images, Timings(), self.now()), Trail())
            return True
        twin = self.repeats.find(job) if self.repeats else None
        if twin is None or not self.images.copy(twin, job):
            return False
        self._record(job, job.succeed(twin.images, Timings(), self.now(), twin.id).warned(twin.warnings), Trail())
        return True

    def _rendering(self, job: Job, lines: ExitStack, together: int) -> Rendering:
        line = lines.enter_context(self.ledger.open_line(job))
        return Rendering(job, Follower(job, line, self.ledger, self.leaving, self.retiring, together))

    def _render(self, renderings: Sequence[Rendering]) -> None:
        """Leave in each what came of it."""
        if len(renderings) == 1 or not self._render_together(renderings):
            for each in renderings:
                if each.error is None:
                    self._render_alone(each)

    def _render_alone(self, rendering: Rendering) -> None:
        job, begin = rendering.job, time.perf_counter()
        try:
            with logs.about(job_id=job.id):
                with rendering.trail.part("load"):
                    inputs = self._reader.read(job)
                with rendering.trail.part("render"):
                    rendering.pictures = self.backend.generate(job.request, inputs, rendering.follower)
        except Exception as error:
            rendering.error = error
        rendering.milliseconds = _milliseconds_since(begin)

    def _render_together(self, renderings: Sequence[Rendering]) -> bool:
        """False where that did not work for jobs that may work alone."""
        assert isinstance(self.backend, Batching)  # noqa: S101 - nobody else has mates
        requests, begin = [each.job.request for each in renderings], time.perf_counter()
        counts = [request.num_images for request in requests]
        watch = Together([each.follower for each in renderings], counts)
        pictures: Sequence[Sequence[Picture]] = [()] * len(renderings)
        try:
            with ExitStack() as trails:
                for each in renderings:
                    trails.enter_context(each.trail.part("render"))
                pictures = self.backend.generate_together(requests, watch)
        except Exception as error:
            failed = len(watch.ended) < len(renderings)
            if failed:
                logger.warning("%d jobs could not be rendered together, so one by one: %s", len(renderings), error)
        else:
            failed = False
        for number, each in enumerate(renderings):
            each.pictures, each.error = pictures[number], watch.ended.get(number)
            each.milliseconds, each.batch_size = _milliseconds_since(begin), None if failed else sum(counts)
        return not failed

    def _conclude(self, rendering: Rendering) -> None:
        job, trail = rendering.job, rendering.trail
        with logs.about(job_id=job.id):
            ended = self._ended(rendering)
            if ended is None:
                self._trace(job, None, trail)
            else:
                self._record(job, ended, trail)

    def _ended(self, rendering: Rendering) -> Job | None:
        """None where the job is, or will be, somebody else's."""
        job = rendering.job
        try:
            images, timings = self._keep(rendering)
            ended = job.succeed(images, timings, self.now())
        except JobLost:
            logger.warning("job %s was taken away; its picture is dropped", job.id)
            return None
        except WorkerLeaves:
            return None
        except JobCancelled:
            ended = job.cancel(self.now())
        except ImagegenError as error:
            ended = job.fail(JobError.of(error), self.now())
        except Exception:
            logger.exception("job %s failed unexpectedly", job.id)
            ended = job.fail(JobError.of(InternalError()), self.now())
        return ended.warned(rendering.follower.warnings)

    def _trace(self, job: Job, ended: Job | None, trail: Trail) -> None:
        if self.tracing.is_on:
            self.tracing.tell(span_of(job, ended, trail), job.traceparent)

    def _record(self, job: Job, ended: Job, trail: Trail) -> None:
        with trail.part("record"):
            recorded = self.ledger.move(job, ended)
        self._trace(job, ended, trail)
        if recorded:
            self.images.inputs.discard(job)
        if recorded and not ended.images:
            self.images.discard(job)
        if recorded and self.repeats:
            self.repeats.remember(ended)
        outcome = ended.error.code if ended.error else ended.state
        spent = ended.timings.total_ms
        logger.info("job %s %s in %s ms", job.id, outcome if recorded else "lost", spent, extra={"job_id": job.id})

    def _keep(self, rendering: Rendering) -> tuple[tuple[Image, ...], Timings]:
        """Store what was rendered. Raises what rendering it raised.

        From then on, a worker that dies leaves behind all that is needed to finish.
        """
        if rendering.error is not None:
            raise rendering.error
        follower, pictures, begin = rendering.follower, rendering.pictures, time.perf_counter()
        if flagged := sum(picture.flagged for picture in pictures):
            follower.warn(f"{flagged} of {len(pictures)} pictures are withheld: the safety checker objects")
        if flagged == len(pictures):
            raise ContentRejected(WITHHELD)
        # Who was stopped for so long that the job went to somebody else must not write any more.
        follower.line.confirm()
        with rendering.trail.part("encode"):
            images = tuple(self._store(rendering.job, pictures))
        return images, Timings(
            generate_ms=rendering.milliseconds,
            encode_ms=_milliseconds_since(begin),
            # What a provider tells as progress is no step of any size.
            step_ms=follower.step_ms if rendering.job.request.num_inference_steps else None,
            batch_size=rendering.batch_size,
        )

    def _store(self, job: Job, pictures: Iterable[Picture]) -> Iterable[Image]:
        for index, picture in enumerate(pictures):
            _check(picture.pixels, job.request, self.backend.capabilities.chosen(job.request))
            encoded = None if picture.flagged else self.encoder.encode(picture, job)
            if encoded:
                self.images.save(job, index, encoded.data)
            height, width, _ = picture.pixels.shape
            yield Image(
                index=index,
                media_type=job.request.output_format.media_type,
                width=width,
                height=height,
                seed=picture.seed,
                bytes=len(encoded.data) if encoded else None,
                sha256=encoded.sha256 if encoded else None,
                flagged=picture.flagged,
            )


def _refusal(error: InvalidRequest) -> JobError:
    reasons = "; ".join(f"{field.pointer[1:]} {field.detail}" for field in error.errors)
    return JobError(code=error.code, detail=f"{error.detail} {reasons}".strip())


def _check(pixels: Pixels, request: GenerationRequest, model: Capabilities) -> None:
    """Raises InvalidOutput. A decoder that overflows gives one colour everywhere, mostly black."""
    if model.exact_size and pixels.shape[:2] != (request.height, request.width):
        raise InvalidOutput(f"The model gave {pixels.shape[1]}x{pixels.shape[0]} pixels.")
    if pixels.min() == pixels.max():
        raise InvalidOutput


def _milliseconds_since(begin: float) -> int:
    return round((time.perf_counter() - begin) * 1000)
