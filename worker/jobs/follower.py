"""Who follows a job while it is rendered: turns steps into progress with an estimate, and now and then a preview."""

import base64
import io
import json
import logging
import math
import threading
import time
from typing import Protocol

from PIL import Image as PillowImage

from shared.errors import TimedOut
from shared.jobs.requests import Job, Progress, Provider
from worker.engines.base import Step
from worker.images.values import Pixels

logger = logging.getLogger(__name__)

#: A job must be this old before its first preview, and previews this far apart: short jobs cost nothing extra.
PREVIEW_SECONDS = 1.0
PREVIEW_SIDE = 256


class JobCancelled(Exception):
    """Somebody asked for the job to stop."""


class JobLost(Exception):
    """The job is no longer this worker's: its record moved on without it."""


class WorkerLeaves(Exception):
    """The worker ends before the job does; the job is to go back into the queue."""


class ProgressChannel(Protocol):
    """The line to those who follow a running job."""

    def progress(self, progress: Progress) -> None: ...

    def preview(self, preview_json: str) -> None: ...

    def check(self) -> None:
        """Raises JobCancelled or JobLost, by what was last heard."""
        ...

    def confirm(self) -> None:
        """Be sure. Raises JobCancelled or JobLost."""
        ...


class Notes(Protocol):
    """Where it is noted what a job has bought."""

    def note(self, job: Job) -> bool:
        """Put its `providers` on record, retried like a move. False when the job is no longer this worker's."""
        ...


class Follower:
    """The Watch of one job."""

    def __init__(
        self,
        job: Job,
        line: ProgressChannel,
        notes: Notes,
        leaving: threading.Event,
        retiring: threading.Event,
        together: int = 1,
    ) -> None:
        """`together` is how many jobs are rendered in the one go: their previews cost no more than those of one."""
        self.line = line
        self._preview_seconds = PREVIEW_SECONDS * together
        self.warnings: list[str] = []
        """What there is to say of the job, whatever becomes of it."""
        self._job = job
        self._notes = notes
        self._leaving = leaving
        self._retiring = retiring
        self._deadline = math.inf
        self._begin = self._last_preview = time.monotonic()
        self.step_ms: float | None = None
        """Mean time of a step so far; None before the first."""

    @property
    def provider_tasks(self) -> tuple[Provider, ...]:
        return self._job.providers

    def save_provider_tasks(self, tasks: tuple[Provider, ...]) -> None:
        self._job = self._job.model_copy(update={"providers": tasks})
        if not self._notes.note(self._job):
            raise JobLost

    def add_warning(self, warning: str) -> None:
        self.warnings.append(warning)

    def request_restart(self, reason: str) -> None:
        logger.error("this process will do no other job: %s", reason, extra={"job_id": self._job.id})
        self._retiring.set()

    def begin(self, time_limit_seconds: float) -> None:
        """Of rendering. Once the limit has passed, `check` and `on_step` raise TimedOut."""
        self._begin = self._last_preview = time.monotonic()
        self._deadline = self._begin + time_limit_seconds

    def check(self) -> None:
        self.line.check()
        if self._leaving.is_set():
            raise WorkerLeaves
        if time.monotonic() >= self._deadline:
            raise TimedOut

    def on_step(self, step: Step) -> None:
        self.check()
        now = time.monotonic()
        self.step_ms = round((now - self._begin) * 1000 / step.step, 2)
        fraction = step.step / step.steps
        eta = (now - self._begin) * (1 - fraction) / fraction
        self.line.progress(
            Progress(step=step.step, steps=step.steps, fraction=round(fraction, 4), eta_seconds=round(eta, 2))
        )
        if step.render_preview is not None and now - self._last_preview >= self._preview_seconds:
            self._last_preview = now
            previews = map(step.render_preview, range(self._job.request.num_images))
            if (preview := next((each for each in previews if each is not None), None)) is not None:
                self.line.preview(_preview_json(step.step, preview))


def _preview_json(step: int, pixels: Pixels) -> str:
    image = PillowImage.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return json.dumps({"step": step, "media_type": "image/jpeg", "b64_json": encoded})
