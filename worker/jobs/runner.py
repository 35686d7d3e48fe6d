"""The life of jobs in a worker: claim, render, encode, store, record."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from shared.errors import ContentRejected, ImagegenError, InternalError, InvalidOutput, StorageFull, StorageUnavailable
from shared.jobs.requests import GenerationRequest, Image, Job, JobError, Timings
from shared.models.capabilities import Capabilities
from shared.observability import logs
from shared.observability.tracing import Tracing, Untraced
from shared.storage.images import ImageStore
from worker.engines.base import BatchEngine, Engine, ReportsCredits, Unfinished
from worker.images.encoder import Encoder
from worker.images.values import Inputs, Pixels, RenderedImage
from worker.jobs.batching import BatchWatch
from worker.jobs.claims import Claims
from worker.jobs.finishers import Finisher, InlineFinisher
from worker.jobs.follower import Follower, JobCancelled, JobLost, WorkerLeaves
from worker.jobs.ledger import Ledger, ResultCache
from worker.jobs.spans import SpanRecorder, span_of

logger = logging.getLogger(__name__)

WITHHELD = "The safety checker objects to what was made; another prompt or seed may give something else."
#: Jobs of one go whose images are encoded and stored within this time go on record together.
SHORT_SECONDS = 0.005
#: How long after the time limit a step may still come, as a share of it and at least.
GRACE, SHORTEST_GRACE_SECONDS = 0.25, 5.0
#: How often it is tried to store an image that was bought.
SAVE_SECONDS = 1.0


@dataclass(eq=False)
class Rendering:
    """A job of this worker's, and what came of rendering it."""

    job: Job
    follower: Follower
    rendered: Sequence[RenderedImage] = ()
    error: Exception | None = None
    images: tuple[Image, ...] = ()
    """Those that it has although it failed."""
    saved: list[int] = field(default_factory=list)
    """Indexes of those that this attempt has put where they lie."""
    milliseconds: int = 0
    batch_size: int | None = None
    trail: SpanRecorder = field(default_factory=SpanRecorder)


@dataclass(frozen=True)
class Ending:
    """What a job has come to, before it is on record."""

    job: Job
    ended: Job
    trail: SpanRecorder
    saved: Sequence[int] = ()
    """As in Rendering."""


@dataclass
class Runner:
    """Safe to share between threads where the backend is."""

    backend: Engine
    claims: Claims
    ledger: Ledger
    images: ImageStore
    encoder: Encoder
    repeats: ResultCache | None = None
    """None makes every image anew."""
    finish: Finisher = field(default_factory=InlineFinisher)
    tracing: Tracing = field(default_factory=Untraced)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    time_limit_seconds: float = math.inf
    """How long rendering a job may take. It is stopped at its next step after that."""
    guard: Callable[[float], AbstractContextManager[None]] = field(default=lambda _: nullcontext())
    """Ends the process when rendering, which it is around, does not stop at a step so many seconds after its begin."""
    leaving: threading.Event = field(default_factory=threading.Event)
    """Once set, every job that runs is left where it is as soon as that costs nothing."""
    paid_seconds: float = 600
    """How long it is tried to store an image that was bought."""
    retiring: threading.Event = field(default_factory=threading.Event)
    """Set by a job that leaves behind a process which is not fit for another one."""

    def claim(self) -> Sequence[Job]:
        """The next job in the queue, and those that are rendered with it; none where there is nothing to do."""
        return [job for job in self.claims.take() if not self._is_made(job)]

    def run(self, jobs: Sequence[Job]) -> None:
        """Do what was claimed."""
        with ExitStack() as lines:
            renderings = [self._rendering(job, lines, len(jobs)) for job in jobs]
            self._render(renderings)
            self.finish(partial(self._conclude, renderings), lines.pop_all().close)

    def _is_made(self, job: Job) -> bool:
        """Whether its images are there, and so it is done: an attempt before this one made them, or a job like it."""
        if images := self.images.stored_images(job) if job.attempt > 1 else None:
            self._record([Ending(job, job.succeed(images, Timings(), self.now()), SpanRecorder())])
            return True
        twin = self.repeats.find(job) if self.repeats else None
        if twin is None or not self.images.copy(twin, job):
            return False
        ended = job.succeed(twin.images, Timings(), self.now(), twin.id).warned(twin.warnings)
        self._record([Ending(job, ended, SpanRecorder())])
        return True

    def _rendering(self, job: Job, lines: ExitStack, together: int) -> Rendering:
        line = lines.enter_context(self.ledger.open_line(job))
        return Rendering(job, Follower(job, line, self.ledger, self.leaving, self.retiring, together))

    def _render(self, renderings: Sequence[Rendering]) -> None:
        """Leave in each what came of it."""
        readable = [(each, inputs) for each in renderings if (inputs := self._read(each)) is not None]
        if len(readable) < 2 or not self._render_together(*zip(*readable, strict=True)):
            for each, inputs in readable:
                if each.error is None:
                    self._render_alone(each, inputs)

    def _read(self, rendering: Rendering) -> Inputs | None:
        """What came with the job; None, and the error left in it, where that cannot be used."""
        try:
            with logs.about(job_id=rendering.job.id), rendering.trail.part("load"):
                inputs = self.claims.reader.read(rendering.job)
                # Who sends them elsewhere decodes one at a time, and none where all was sent by an earlier attempt.
                return inputs if isinstance(self.backend, ReportsCredits) else inputs.decoded()
        except Exception as error:
            rendering.error = error
            return None

    def _render_alone(self, rendering: Rendering, inputs: Inputs) -> None:
        job, begin = rendering.job, time.perf_counter()
        try:
            with logs.about(job_id=job.id), rendering.trail.part("render"), self._limited():
                rendering.follower.begin(self.time_limit_seconds)
                rendering.rendered = self.backend.generate(job.request, inputs, rendering.follower)
        except Unfinished as unfinished:
            rendering.rendered, rendering.error = unfinished.images, unfinished.why
            rendering.follower.warn(f"{len(unfinished.images)} of {job.request.num_images} images are there")
        except Exception as error:
            rendering.error = error
        rendering.milliseconds = _milliseconds_since(begin)

    def _render_together(self, renderings: Sequence[Rendering], inputs: Sequence[Inputs]) -> bool:
        """False where that did not work for jobs that may work alone."""
        assert isinstance(self.backend, BatchEngine)  # noqa: S101 - nobody else has mates
        requests, begin = [each.job.request for each in renderings], time.perf_counter()
        counts = [request.num_images for request in requests]
        watch = BatchWatch([each.follower for each in renderings], counts, self.time_limit_seconds)
        images: Sequence[Sequence[RenderedImage]] = [()] * len(renderings)
        try:
            with ExitStack() as trails, self._limited():
                for each in renderings:
                    trails.enter_context(each.trail.part("render"))
                images = self.backend.generate_together(requests, inputs, watch)
        except Exception as error:
            failed = len(watch.ended) < len(renderings)
            if failed:
                logger.warning("%d jobs could not be rendered together, so one by one: %s", len(renderings), error)
        else:
            failed = False
        for number, each in enumerate(renderings):
            each.error = watch.ended.get(number)
            each.rendered = () if each.error else images[number]
            each.milliseconds, each.batch_size = _milliseconds_since(begin), None if failed else sum(counts)
        return not failed

    def _limited(self) -> AbstractContextManager[None]:
        limit = self.time_limit_seconds
        return self.guard(limit + max(SHORTEST_GRACE_SECONDS, GRACE * limit)) if limit < math.inf else nullcontext()

    def _conclude(self, renderings: Sequence[Rendering]) -> None:
        """Each job is put on record as soon as its images are stored; those that take no time, together."""
        endings, begin = list[Ending](), time.perf_counter()
        for rendering in renderings:
            with logs.about(job_id=rendering.job.id):
                ended = self._ended(rendering)
            if ended is None:
                self._trace(rendering.job, None, rendering.trail)
                continue
            endings.append(Ending(rendering.job, ended, rendering.trail, rendering.saved))
            if time.perf_counter() - begin > SHORT_SECONDS:
                self._record(endings)
                endings, begin = [], time.perf_counter()
        self._record(endings)

    def _ended(self, rendering: Rendering) -> Job | None:
        """None where the job is, or will be, somebody else's."""
        job = rendering.job
        try:
            images, timings = self._keep(rendering)
            ended = job.succeed(images, timings, self.now())
        except JobLost:
            logger.warning("job %s was taken away; its image is dropped", job.id)
            return None
        except WorkerLeaves:
            return None
        except JobCancelled:
            ended = job.cancel(self.now())
        except ImagegenError as error:
            known = job.model_copy(update={"providers": rendering.follower.providers})
            ended = known.fail(JobError.of(error), self.now(), rendering.images)
        except Exception:
            logger.exception("job %s failed unexpectedly", job.id)
            ended = job.fail(JobError.of(InternalError()), self.now())
        return ended.warned(rendering.follower.warnings)

    def _trace(self, job: Job, ended: Job | None, trail: SpanRecorder) -> None:
        if self.tracing.is_on:
            self.tracing.tell(span_of(job, ended, trail), job.traceparent)

    def _record(self, endings: Sequence[Ending]) -> None:
        if not endings:
            return
        with ExitStack() as trails:
            for each in endings:
                trails.enter_context(each.trail.part("record"))
            recorded = self.ledger.move([(each.job, each.ended) for each in endings])
        for each, is_ours in zip(endings, recorded, strict=True):
            self._trace(each.job, each.ended, each.trail)
            if is_ours:
                self._clear_up(each)
            outcome = each.ended.error.code if each.ended.error else each.ended.state
            spent, job_id = each.ended.timings.total_ms, each.job.id
            logger.info("job %s %s in %s ms", job_id, outcome if is_ours else "lost", spent, extra={"job_id": job_id})

    def _clear_up(self, ending: Ending) -> None:
        """Once it is on record: before that, another attempt may come to have what this one has saved."""
        self.images.inputs.discard(ending.job)
        if not ending.ended.images:
            self.images.discard(ending.job, ending.saved)
        if self.repeats:
            self.repeats.remember(ending.ended)

    def _keep(self, rendering: Rendering) -> tuple[tuple[Image, ...], Timings]:
        """Store what was rendered. Raises what rendering it raised.

        From then on, a worker that dies leaves behind all that is needed to finish.
        """
        if rendering.error is not None and not rendering.rendered:
            raise rendering.error
        follower, begin = rendering.follower, time.perf_counter()
        with rendering.trail.part("encode"):
            images = self._store(rendering)
        if rendering.error is not None:
            rendering.images = images
            raise rendering.error
        if flagged := sum(image.flagged for image in images):
            follower.warn(f"{flagged} of {len(images)} images are withheld: the safety checker objects")
        if flagged == len(images):
            raise ContentRejected(WITHHELD)
        return images, Timings(
            generate_ms=rendering.milliseconds,
            encode_ms=_milliseconds_since(begin),
            # What a provider tells as progress is no step of any size.
            step_ms=follower.step_ms if rendering.job.request.num_inference_steps else None,
            batch_size=rendering.batch_size,
        )

    def _store(self, rendering: Rendering) -> tuple[Image, ...]:
        job, images = rendering.job, list[Image]()
        for index, image in enumerate(rendering.rendered):
            data = self._encoded(job, image)
            # Who was stopped for so long that the job went to somebody else is to leave nothing behind.
            rendering.follower.line.confirm()
            kept = None if data is None else self._save(partial(self.images.save, job, index, data), rendering)
            if kept is data is not None:
                rendering.saved.append(index)
            images.append(_image(job, index, image, kept))
        return tuple(images)

    def _encoded(self, job: Job, image: RenderedImage) -> bytes | None:
        """None for what is withheld."""
        _check(image.pixels, job.request, self.backend.capabilities.for_requested_model(job.request))
        return None if image.flagged else self.encoder.encode(image, job)

    def _save(self, save: Callable[[], bytes], rendering: Rendering) -> bytes:
        """What was bought is tried again for as long as a job may run. Raises what `save` and the follower raise."""
        follower, end = rendering.follower, time.monotonic() + self.paid_seconds
        while True:
            try:
                return save()
            except (StorageFull, StorageUnavailable, OSError) as error:
                if not follower.providers or time.monotonic() >= end:
                    raise
                logger.warning("what was bought cannot be stored yet: %s", error)
            follower.check()
            time.sleep(SAVE_SECONDS)


def _image(job: Job, index: int, image: RenderedImage, data: bytes | None) -> Image:
    """As the record has it; `data` is None for one that is withheld."""
    height, width, _ = image.pixels.shape
    return Image(
        index=index,
        media_type=job.request.output_format.media_type,
        width=width,
        height=height,
        seed=image.seed,
        bytes=len(data) if data else None,
        sha256=hashlib.sha256(data).hexdigest() if data else None,
        flagged=image.flagged,
    )


def _check(pixels: Pixels, request: GenerationRequest, model: Capabilities) -> None:
    """Raises InvalidOutput. A decoder that overflows gives one colour everywhere, mostly black; a provider gives that
    only where it is what was asked for."""
    if not model.exact_size:
        return
    if pixels.shape[:2] != (request.height, request.width):
        raise InvalidOutput(f"The model gave {pixels.shape[1]}x{pixels.shape[0]} pixels.")
    if pixels.min() == pixels.max():
        raise InvalidOutput


def _milliseconds_since(begin: float) -> int:
    return round((time.perf_counter() - begin) * 1000)
