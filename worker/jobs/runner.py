"""The life of jobs in a worker: claim, render, encode, store, record."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from shared.errors import ImagegenError, InternalError
from shared.jobs.job import Job, JobError, Timings
from shared.observability import logs
from shared.observability.tracing import Tracing
from worker.engines.base import Engine, ReportsCredits, Reproducible
from worker.jobs.claims import Claim, JobClaimer
from worker.jobs.finishers import SHORT_SECONDS, Finisher, SideBySide
from worker.jobs.job_store import JobCancelled, JobLost, JobStore, ResultCache
from worker.jobs.monitor import JobMonitor, WorkerStopping
from worker.jobs.rendering import Renderer, Rendering
from worker.jobs.saving import ImageSaver, SavedImages
from worker.jobs.spans import SpanRecorder, job_span

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EndedJob:
    """A job that has ended but is not yet recorded as such."""

    running: Job
    ended: Job
    spans: SpanRecorder = field(default_factory=SpanRecorder)
    saved_indexes: Sequence[int] = ()
    """Images that this attempt has stored."""
    fingerprint: str | None = None
    """Of what made the images (see Claim)."""


@dataclass
class Runner:
    """Thread-safe if the engines are."""

    claimer: JobClaimer
    renderer: Renderer
    saver: ImageSaver
    job_store: JobStore
    result_cache: ResultCache | None = None
    """None renders every image anew."""
    finisher: Finisher = field(default_factory=Finisher)
    side_by_side: SideBySide = field(default_factory=SideBySide)
    tracing: Tracing = field(default_factory=Tracing)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    stopping: threading.Event = field(default_factory=threading.Event)
    """Once set, every running job is left as it is as soon as that costs nothing."""
    needs_restart: threading.Event = field(default_factory=threading.Event)
    """Set by a job after which this process must not run another one."""

    @contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """The next job in the queue and those to render with it; None if there is nothing to render.

        Their model stays in memory during the block.
        """
        with self.claimer.claim() as claim:
            # Only then: it reads folders.
            if claim and self.result_cache and isinstance(claim.engine, Reproducible):
                claim = replace(claim, fingerprint=claim.engine.fingerprint())
            jobs = self._without_images(claim) if claim else ()
            yield replace(claim, jobs=jobs) if claim and jobs else None

    def run(self, claim: Claim) -> None:
        """Render claimed jobs; the finisher then stores their images and records them."""
        with ExitStack() as channels:
            renderings = [self._open(job, claim, channels) for job in claim.jobs]
            self.renderer.render(renderings)
            self.finisher.run(partial(self._finish, renderings, claim.fingerprint), channels.pop_all().close)

    def _without_images(self, claim: Claim) -> Sequence[Job]:
        """Record the jobs whose images exist already, and return the others."""
        if self.result_cache is None and not any(_may_have_images(job, claim.engine) for job in claim.jobs):
            return claim.jobs
        # Their channels renew the leases: a storage that does not answer is waited for.
        with ExitStack() as channels:
            for job in claim.jobs:
                channels.enter_context(self.job_store.open_channel(job))
            return [job for job in claim.jobs if not self._reuse_images(job, claim)]

    def _reuse_images(self, job: Job, claim: Claim) -> bool:
        """Record a job as succeeded if an earlier attempt, or a job like it, has made its images."""
        fingerprint = claim.fingerprint
        if images := self.saver.images.stored_images(job) if _may_have_images(job, claim.engine) else None:
            self._record([EndedJob(job, job.succeed(images, Timings(), self.now()), fingerprint=fingerprint)])
            return True
        cached = self.result_cache.find(job, fingerprint) if self.result_cache and fingerprint else None
        if cached is None or not self.saver.images.copy(cached, job):
            return False
        ended = job.succeed(cached.images, Timings(), self.now(), cached.id).with_warnings(cached.warnings)
        self._record([EndedJob(job, ended)])
        return True

    def _open(self, job: Job, claim: Claim, channels: ExitStack) -> Rendering:
        channel = channels.enter_context(self.job_store.open_channel(job))
        monitor = JobMonitor(job, channel, self.job_store, self.stopping, self.needs_restart, len(claim.jobs))
        return Rendering(job, monitor, claim.engine, claim.capabilities)

    def _finish(self, renderings: Sequence[Rendering], fingerprint: str | None) -> None:
        """Record each job as soon as its images are stored; jobs that take no time, together."""

        def end(rendering: Rendering) -> Job | None:
            with logs.log_context(job_id=rendering.job.id):
                return self._end(rendering)

        endings, begin = list[EndedJob](), time.perf_counter()
        with self.side_by_side.run(end, renderings) as results:
            for rendering, ended in zip(renderings, results, strict=True):
                if ended is None:
                    self._trace(rendering.job, None, rendering.spans)
                    continue
                endings.append(EndedJob(rendering.job, ended, rendering.spans, rendering.saved_indexes, fingerprint))
                if time.perf_counter() - begin > SHORT_SECONDS:
                    self._record(endings)
                    endings, begin = [], time.perf_counter()
        self._record(endings)

    def _end(self, rendering: Rendering) -> Job | None:
        """Store the images and return the job as it ended; None if another worker has it or will get it."""
        job, outcome = rendering.job, self._save(rendering)
        match outcome:
            case SavedImages():
                ended = job.succeed(outcome.images, outcome.timings, self.now())
            case JobCancelled():
                ended = job.cancel(self.now())
            case JobLost():
                logger.warning("job %s was lost to another worker; its image is dropped", job.id)
                return None
            case WorkerStopping():
                return None
            case ImagegenError():
                bought = job.model_copy(update={"providers": rendering.monitor.provider_tasks})
                ended = bought.fail(JobError.from_error(outcome), self.now(), rendering.images)
            case _:
                logger.error("job %s failed unexpectedly", job.id, exc_info=outcome)
                ended = job.fail(JobError.from_error(InternalError()), self.now())
        return ended.with_warnings(rendering.monitor.warnings)

    def _save(self, rendering: Rendering) -> SavedImages | Exception:
        try:
            return self.saver.save(rendering)
        except Exception as error:
            return error

    def _record(self, endings: Sequence[EndedJob]) -> None:
        if not endings:
            return
        with ExitStack() as spans:
            for ending in endings:
                spans.enter_context(ending.spans.record("record"))
            recorded = self.job_store.move([(ending.running, ending.ended) for ending in endings])
        for ending, is_recorded in zip(endings, recorded, strict=True):
            ended = ending.ended
            self._trace(ending.running, ended, ending.spans)
            if is_recorded:
                self._clean_up(ending)
            result = (ended.error.code if ended.error else ended.state) if is_recorded else "lost"
            logger.info("job %s %s in %s ms", ended.id, result, ended.timings.total_ms, extra={"job_id": ended.id})

    def _clean_up(self, ending: EndedJob) -> None:
        """Only once the job is recorded: before that, another attempt may get it and what this one has stored."""
        images = self.saver.images
        images.inputs.discard(ending.running)
        if not ending.ended.images:
            images.discard(ending.running, ending.saved_indexes)
        if self.result_cache and ending.fingerprint:
            self.result_cache.add(ending.ended, ending.fingerprint)

    def _trace(self, job: Job, ended: Job | None, spans: SpanRecorder) -> None:
        if self.tracing.is_on:
            self.tracing.record(job_span(job, ended, spans), job.traceparent)


def _may_have_images(job: Job, engine: Engine) -> bool:
    """A Redis that was restored from a backup may not know of an attempt: images that cost money are looked for."""
    return job.attempt > 1 or isinstance(engine, ReportsCredits)
