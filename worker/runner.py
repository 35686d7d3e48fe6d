"""The life of one job in a worker: claim, render, encode, store, record."""

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from PIL import Image as PillowImage

from shared.capabilities import Capabilities, Size
from shared.errors import (
    ContentRejected,
    DeadlinePassed,
    ImagegenError,
    InternalError,
    InvalidImage,
    InvalidOutput,
    InvalidRequest,
)
from shared.images import ImageStore, Made
from shared.schemas import GenerationRequest, Image, Job, JobError, Progress, Provider, Timings
from shared.states import State
from worker.backends.base import Backend, Picture, Pixels, Step
from worker.inputs import Reader
from worker.pictures import Encoder

logger = logging.getLogger(__name__)

#: A job must be this old before its first preview, and previews this far apart: short jobs cost nothing extra.
PREVIEW_SECONDS = 1.0
PREVIEW_SIDE = 256
WITHHELD = "The safety checker objects to what was made; another prompt or seed may give something else."


class JobCancelled(Exception):
    """Somebody asked for the job to stop."""


class JobLost(Exception):
    """The job is no longer this worker's: its record moved on without it."""


class WorkerLeaves(Exception):
    """The worker ends before the job does; the job is to go back in line."""


class Line(Protocol):
    """The line to those who follow a running job."""

    def progress(self, progress: Progress) -> None: ...

    def preview(self, preview_json: str) -> None: ...

    def check(self) -> None:
        """Raises JobCancelled or JobLost, by what was last heard."""
        ...

    def confirm(self) -> None:
        """Ask now. Raises JobCancelled or JobLost."""
        ...


class Ledger(Protocol):
    """Where jobs are on record."""

    def read(self, job_id: str) -> Job | None: ...

    def move(self, old: Job, new: Job) -> bool:
        """Compare-and-set, retried until the record keeper answers. False when the job was moved by somebody else."""
        ...

    def note(self, job: Job) -> bool:
        """Put its `providers` on record, retried like a move. False when the job is no longer this worker's."""
        ...

    def open_line(self, job: Job) -> AbstractContextManager[Line]: ...


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
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    leaving: threading.Event = field(default_factory=threading.Event)
    """Once set, every job that runs is left where it is as soon as that costs nothing."""
    retiring: threading.Event = field(default_factory=threading.Event)
    """Set by a job that leaves behind a process which is not fit for another one."""

    def run(self, job_id: str) -> None:
        """Do the job unless it has been done, taken or cancelled meanwhile.

        A job that is on record as running is another worker's, even if its message comes again: the housekeeper
        puts it back in line when that worker is lost.
        """
        job = self.ledger.read(job_id)
        if job is None or job.state is not State.QUEUED:
            logger.info("nothing to do: the job is %s", job.state if job else "unknown", extra={"job_id": job_id})
            return
        if job.is_overdue(self.now()):
            self._refuse(job, JobError.of(DeadlinePassed()))
            return
        try:
            input_size = self._reader.size(job)
            # Nobody could where it came in before a worker had told what it takes.
            self.backend.capabilities.check(job.request, input_size=input_size)
        except InvalidRequest as error:
            self._refuse(job, _refusal(error))
            return
        except InvalidImage as error:
            self._refuse(job, JobError.of(error))
            return
        started = self._start(job, input_size)
        if started is not None:
            self._finish(started)

    @property
    def _reader(self) -> Reader:
        return Reader(self.images.inputs, self.max_image_pixels)

    def _refuse(self, job: Job, error: JobError) -> None:
        """Fail a job that was not started."""
        if self.ledger.move(job, job.fail(error, self.now())):
            self.images.inputs.discard(job.id)

    def _start(self, job: Job, input_size: Size | None) -> Job | None:
        request, warnings = self.backend.capabilities.resolve(job.request, input_size, self.max_pixels)
        started = job.start(self.backend.capabilities.chosen(job.request).model, self.worker, self.now())
        # A later attempt has a request that is resolved, and no longer tells what the caller left out.
        told = job.warnings if job.attempt else warnings
        started = started.model_copy(update={"request": request, "warnings": told})
        return started if self.ledger.move(job, started) else None

    def _finish(self, job: Job) -> None:
        fields = {"job_id": job.id}
        warnings: list[str] = []
        try:
            made = self.images.made(job) or self._make(job, warnings)
            warnings.extend(made.warnings)
            ended = job.succeed(made.images, made.timings, self.now())
        except JobLost:
            logger.warning("job %s was taken away; its picture is dropped", job.id, extra=fields)
            return
        except WorkerLeaves:
            return
        except JobCancelled:
            ended = job.cancel(self.now())
        except ImagegenError as error:
            ended = job.fail(JobError.of(error), self.now())
        except Exception:
            logger.exception("job %s failed unexpectedly", job.id, extra=fields)
            ended = job.fail(JobError.of(InternalError()), self.now())
        recorded = self.ledger.move(job, ended.warned(warnings))
        self.images.forget_made(job)
        if recorded:
            self.images.inputs.discard(job.id)
        if recorded and not ended.images:
            self.images.discard(job)
        outcome = ended.error.code if ended.error else ended.state
        logger.info("job %s %s in %s ms", job.id, outcome if recorded else "lost", ended.timings.total_ms, extra=fields)

    def _make(self, job: Job, warnings: list[str]) -> Made:
        """Render and store, and leave in `warnings` what there is to say, also where this raises.

        From its last line on, a worker that dies leaves behind all that is needed to finish.
        """
        with self.ledger.open_line(job) as line:
            begin = time.perf_counter()
            follower = _Follower(job, self, line, warnings)
            pictures = self.backend.generate(job.request, self._reader.read(job), follower)
            if flagged := sum(picture.flagged for picture in pictures):
                follower.warn(f"{flagged} of {len(pictures)} pictures are withheld: the safety checker objects")
            if flagged == len(pictures):
                raise ContentRejected(WITHHELD)
            # Who was stopped for so long that the job went to somebody else must not write any more.
            line.confirm()
            rendered = time.perf_counter()
            images = tuple(self._store(job, pictures))
            encoded = time.perf_counter()
        spent = Timings(generate_ms=round((rendered - begin) * 1000), encode_ms=round((encoded - rendered) * 1000))
        made = Made(images=images, timings=spent, warnings=tuple(warnings))
        self.images.note_made(job, made)
        return made

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


class _Follower:
    """Turns steps into progress with an estimate, and now and then into a preview."""

    def __init__(self, job: Job, runner: Runner, line: Line, warnings: list[str]) -> None:
        self._job = job
        self._runner = runner
        self._line = line
        self._warnings = warnings
        self._begin = self._last_preview = time.monotonic()

    @property
    def providers(self) -> tuple[Provider, ...]:
        return self._job.providers

    def remember(self, providers: tuple[Provider, ...]) -> None:
        self._job = self._job.model_copy(update={"providers": providers})
        if not self._runner.ledger.note(self._job):
            raise JobLost

    def warn(self, sentence: str) -> None:
        self._warnings.append(sentence)

    def retire(self, reason: str) -> None:
        logger.error("this process will do no other job: %s", reason, extra={"job_id": self._job.id})
        self._runner.retiring.set()

    def check(self) -> None:
        self._line.check()
        if self._runner.leaving.is_set():
            raise WorkerLeaves

    def on_step(self, step: Step) -> None:
        self.check()
        now = time.monotonic()
        fraction = step.step / step.steps
        eta = (now - self._begin) * (1 - fraction) / fraction
        self._line.progress(
            Progress(step=step.step, steps=step.steps, fraction=round(fraction, 4), eta_seconds=round(eta, 2))
        )
        if step.preview is not None and now - self._last_preview >= PREVIEW_SECONDS:
            self._last_preview = now
            self._line.preview(_preview_json(step.step, step.preview()))


def _refusal(error: InvalidRequest) -> JobError:
    reasons = "; ".join(f"{field.pointer[1:]} {field.detail}" for field in error.errors)
    return JobError(code=error.code, detail=f"{error.detail} {reasons}".strip())


def _check(pixels: Pixels, request: GenerationRequest, model: Capabilities) -> None:
    """Raises InvalidOutput. A decoder that overflows gives one colour everywhere, mostly black."""
    if model.exact_size and pixels.shape[:2] != (request.height, request.width):
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
