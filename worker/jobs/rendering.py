"""Rendering claimed jobs: several as one batch where the engine can, else one by one."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field

from shared.jobs.job import Image, Job
from shared.models.capabilities import Capabilities
from shared.observability import logs
from worker.engines.base import BatchEngine, Engine, PartialResult, ReportsCredits
from worker.images.inputs import InputReader
from worker.images.values import Inputs, RenderedImage
from worker.jobs import passes
from worker.jobs.batching import BatchWatch
from worker.jobs.monitor import JobMonitor
from worker.jobs.spans import SpanRecorder

logger = logging.getLogger(__name__)

#: How long after the time limit a step may still come: this share of the limit, and at least so many seconds.
GRACE_SHARE, MIN_GRACE_SECONDS = 0.25, 5.0


@dataclass(eq=False)
class Rendering:
    """A claimed job and what came of rendering it."""

    job: Job
    monitor: JobMonitor
    engine: Engine
    capabilities: Capabilities
    """Of the job's model."""
    rendered: Sequence[RenderedImage] = ()
    error: Exception | None = None
    images: tuple[Image, ...] = ()
    """Images that a failed job has nevertheless."""
    saved_indexes: list[int] = field(default_factory=list)
    """Images that this attempt has stored."""
    milliseconds: int = 0
    batch_size: int | None = None
    """Images of all jobs that were rendered at once."""
    spans: SpanRecorder = field(default_factory=SpanRecorder)

    @property
    def shares_batch(self) -> bool:
        """Whether other jobs were rendered in the same batch; their images are stored at the same time."""
        return self.batch_size is not None and self.batch_size > self.job.request.num_images


@dataclass(frozen=True)
class Renderer:
    """Thread-safe if the engines are. Jobs that are rendered together have one engine."""

    reader: InputReader
    time_limit_seconds: float = math.inf
    """How long rendering a job may take; it stops at the next step after that."""
    hang_guard: Callable[[float], AbstractContextManager[None]] = field(default=lambda _: nullcontext())
    """Ends the process if the block that it guards takes longer than so many seconds."""

    def render(self, renderings: Sequence[Rendering]) -> None:
        """Leave images or an error in each."""
        readable = [(rendering, inputs) for rendering in renderings if (inputs := self._read(rendering)) is not None]
        if len(readable) < 2 or not self._render_batch(*zip(*readable, strict=True)):
            for rendering, inputs in readable:
                if rendering.error is None:
                    self._render_one(rendering, inputs)

    def _read(self, rendering: Rendering) -> Inputs | None:
        """Return the job's input images; None and an error in the rendering if they cannot be used."""
        try:
            with logs.log_context(job_id=rendering.job.id), rendering.spans.record("load"):
                inputs = self.reader.inputs(rendering.job)
                # An engine that sends them to a provider decodes one at a time, or none after an earlier attempt.
                return inputs if isinstance(rendering.engine, ReportsCredits) else inputs.decode_all()
        except Exception as error:
            rendering.error = error
            return None

    def _render_one(self, rendering: Rendering, inputs: Inputs) -> None:
        job, begin = rendering.job, time.perf_counter()
        try:
            with logs.log_context(job_id=job.id), rendering.spans.record("render"), self._time_limit():
                rendering.monitor.begin(self.time_limit_seconds)
                rendering.rendered = passes.generate(rendering.engine, job.request, inputs, rendering.monitor)
        except PartialResult as partial:
            rendering.rendered, rendering.error = partial.images, partial.failure
            rendering.monitor.add_warning(f"only {len(partial.images)} of {job.request.num_images} images were made")
        except Exception as error:
            rendering.error = error
        rendering.milliseconds = milliseconds_since(begin)

    def _render_batch(self, renderings: Sequence[Rendering], inputs: Sequence[Inputs]) -> bool:
        """Return False if the batch failed: those of its jobs that have no error may succeed one by one."""
        engine = renderings[0].engine
        assert isinstance(engine, BatchEngine)  # noqa: S101 - only then are several jobs claimed
        requests, begin = [rendering.job.request for rendering in renderings], time.perf_counter()
        counts = [request.num_images for request in requests]
        watch = BatchWatch([rendering.monitor for rendering in renderings], counts, self.time_limit_seconds)
        images: Sequence[Sequence[RenderedImage]] | None = None
        try:
            with ExitStack() as spans, self._time_limit():
                for rendering in renderings:
                    spans.enter_context(rendering.spans.record("render"))
                images = engine.generate_batch(requests, inputs, watch)
        except Exception as error:
            if len(watch.ended) < len(renderings):
                logger.warning("a batch of %d jobs failed; rendering them one by one: %s", len(renderings), error)
        for number, rendering in enumerate(renderings):
            rendering.error = watch.ended.get(number)
            rendering.milliseconds = milliseconds_since(begin)
            if images is not None:
                rendering.batch_size = sum(counts)
                rendering.rendered = () if rendering.error else images[number]
        return images is not None

    def _time_limit(self) -> AbstractContextManager[None]:
        limit = self.time_limit_seconds
        if limit == math.inf:
            return nullcontext()
        return self.hang_guard(limit + max(MIN_GRACE_SECONDS, GRACE_SHARE * limit))


def milliseconds_since(begin: float) -> int:
    return round((time.perf_counter() - begin) * 1000)
