"""The life of one job in a worker: claim, render, encode, store, record."""

import base64
import io
import json
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from PIL import Image as PillowImage

from shared.errors import DeadlinePassed, ImagegenError, InternalError, InvalidOutput, WorkerLost
from shared.images import ImageStore
from shared.schemas import MOST_ATTEMPTS, GenerationRequest, Image, Job, JobError, Progress, Timings
from shared.states import State
from worker.backends.base import Backend, Picture, Pixels, Step
from worker.pictures import Encoder

logger = logging.getLogger(__name__)

#: A job must be this old before its first preview, and previews this far apart: short jobs cost nothing extra.
PREVIEW_SECONDS = 1.0
PREVIEW_SIDE = 256


class JobCancelled(Exception):
    """Somebody asked for the job to stop."""


class JobLost(Exception):
    """The job is no longer this worker's: its record moved on without it."""


class Line(Protocol):
    """The line to those who follow a running job."""

    def progress(self, progress: Progress) -> None: ...

    def preview(self, preview_json: str) -> None: ...

    def check(self) -> None:
        """Raises JobCancelled or JobLost."""
        ...


class Ledger(Protocol):
    """Where jobs are on record."""

    def read(self, job_id: str) -> Job | None: ...

    def move(self, old: Job, new: Job) -> bool:
        """Compare-and-set, retried until the record keeper answers. False when the job was moved by somebody else."""
        ...

    def open_line(self, job: Job) -> AbstractContextManager[Line]: ...


@dataclass
class Runner:
    backend: Backend
    ledger: Ledger
    images: ImageStore
    encoder: Encoder
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def run(self, job_id: str, *, handed_back: bool = False) -> None:
        """Do the job unless it has been done, taken or cancelled meanwhile.

        `handed_back` says that the worker which had it before is known to have ended.
        """
        job = self.ledger.read(job_id)
        if job is not None and handed_back and job.state is State.RUNNING:
            job = self._take_over(job)
        if job is None or job.state is not State.QUEUED:
            logger.info("nothing to do: the job is %s", job.state if job else "unknown", extra={"job_id": job_id})
            return
        if job.is_overdue(self.now()):
            self.ledger.move(job, job.fail(JobError.of(DeadlinePassed()), self.now()))
            return
        started = self._start(job)
        if started is not None:
            self._finish(started)

    def _take_over(self, job: Job) -> Job | None:
        if job.attempt >= MOST_ATTEMPTS:
            self.ledger.move(job, job.fail(JobError.of(WorkerLost()), self.now()))
            return None
        queued = job.requeue()
        return queued if self.ledger.move(job, queued) else None

    def _start(self, job: Job) -> Job | None:
        request, warnings = self.backend.capabilities.resolve(job.request)
        started = job.start(self.backend.capabilities.model, self.now())
        started = started.model_copy(update={"request": request, "warnings": warnings})
        return started if self.ledger.move(job, started) else None

    def _finish(self, job: Job) -> None:
        fields = {"job_id": job.id}
        try:
            with self.ledger.open_line(job) as line:
                images, timings = self._make(job, line)
            ended = job.succeed(images, timings, self.now())
        except JobLost:
            logger.warning("job %s was taken away; its picture is dropped", job.id, extra=fields)
            return
        except JobCancelled:
            ended = job.cancel(self.now())
        except ImagegenError as error:
            ended = job.fail(JobError.of(error), self.now())
        except Exception:
            logger.exception("job %s failed unexpectedly", job.id, extra=fields)
            ended = job.fail(JobError.of(InternalError()), self.now())
        recorded = self.ledger.move(job, ended)
        outcome = ended.error.code if ended.error else ended.state
        logger.info("job %s %s in %s ms", job.id, outcome if recorded else "lost", ended.timings.total_ms, extra=fields)

    def _make(self, job: Job, line: Line) -> tuple[tuple[Image, ...], Timings]:
        begin = time.perf_counter()
        follower = _Follower(line)
        pictures = self.backend.generate(job.request, follower.on_step)
        line.check()
        rendered = time.perf_counter()
        images = tuple(self._store(job, pictures))
        encoded = time.perf_counter()
        return images, Timings(
            generate_ms=round((rendered - begin) * 1000), encode_ms=round((encoded - rendered) * 1000)
        )

    def _store(self, job: Job, pictures: Iterable[Picture]) -> Iterable[Image]:
        for index, picture in enumerate(pictures):
            _check(picture.pixels, job.request)
            encoded = self.encoder.encode(picture, job)
            self.images.save(job, index, encoded.data)
            height, width, _ = picture.pixels.shape
            yield Image(
                index=index,
                media_type=job.request.output_format.media_type,
                width=width,
                height=height,
                seed=picture.seed,
                bytes=len(encoded.data),
                sha256=encoded.sha256,
            )


class _Follower:
    """Turns steps into progress with an estimate, and now and then into a preview."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._begin = self._last_preview = time.monotonic()

    def on_step(self, step: Step) -> None:
        self._line.check()
        now = time.monotonic()
        fraction = step.step / step.steps
        eta = (now - self._begin) * (1 - fraction) / fraction
        self._line.progress(
            Progress(step=step.step, steps=step.steps, fraction=round(fraction, 4), eta_seconds=round(eta, 2))
        )
        if step.preview is not None and now - self._last_preview >= PREVIEW_SECONDS:
            self._last_preview = now
            self._line.preview(_preview_json(step.step, step.preview()))


def _check(pixels: Pixels, request: GenerationRequest) -> None:
    """Raises InvalidOutput. A decoder that overflows gives one colour everywhere, mostly black."""
    if pixels.shape[:2] != (request.height, request.width):
        raise InvalidOutput(f"The model gave {pixels.shape[1]}x{pixels.shape[0]} pixels.")
    if pixels.min() == pixels.max():
        raise InvalidOutput


def _preview_json(step: int, pixels: Pixels) -> str:
    image = PillowImage.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return json.dumps({"step": step, "media_type": "image/jpeg", "b64_json": encoded})
