"""Who follows a job while it is rendered: turns steps into progress with an estimate, and now and then a preview."""

import base64
import io
import json
import logging
import math
import threading
import time

from PIL import Image as PillowImage

from shared.errors import TimedOut
from shared.jobs.job import Job, Progress, ProviderTask
from worker.engines.base import Step
from worker.images.values import Pixels
from worker.jobs.job_store import JobLost, JobStore, ProgressChannel

logger = logging.getLogger(__name__)

#: A job must be this old before its first preview, and previews this far apart: short jobs cost nothing extra.
PREVIEW_SECONDS = 1.0
PREVIEW_SIDE = 256


class WorkerStopping(Exception):
    """The worker ends before the job does; the job is to go back into the queue."""


class JobMonitor:
    """The Watch of one job."""

    def __init__(
        self,
        job: Job,
        channel: ProgressChannel,
        job_store: JobStore,
        stopping: threading.Event,
        retired: threading.Event,
        batch_size: int = 1,
    ) -> None:
        """`batch_size` counts the jobs rendered together: all their previews cost no more than those of one job."""
        self.channel = channel
        self._preview_seconds = PREVIEW_SECONDS * batch_size
        self.warnings: list[str] = []
        """What there is to say of the job, whatever becomes of it."""
        self._job = job
        self._job_store = job_store
        self._stopping = stopping
        self._retired = retired
        self._deadline = math.inf
        self._begin = self._last_preview = time.monotonic()
        self.step_ms: float | None = None
        """Mean time of a step so far; None before the first."""

    @property
    def provider_tasks(self) -> tuple[ProviderTask, ...]:
        return self._job.providers

    def save_provider_tasks(self, tasks: tuple[ProviderTask, ...]) -> None:
        self._job = self._job.model_copy(update={"providers": tasks})
        if not self._job_store.save_provider_tasks(self._job):
            raise JobLost

    def add_warning(self, warning: str) -> None:
        self.warnings.append(warning)

    def request_restart(self, reason: str) -> None:
        logger.error("this process will do no other job: %s", reason, extra={"job_id": self._job.id})
        self._retired.set()

    def begin(self, time_limit_seconds: float) -> None:
        """Of rendering. Once the limit has passed, `check` and `on_step` raise TimedOut."""
        self._begin = self._last_preview = time.monotonic()
        self._deadline = self._begin + time_limit_seconds

    def check(self) -> None:
        self.channel.check()
        if self._stopping.is_set():
            raise WorkerStopping
        if time.monotonic() >= self._deadline:
            raise TimedOut

    def on_step(self, step: Step) -> None:
        self.check()
        now = time.monotonic()
        self.step_ms = round((now - self._begin) * 1000 / step.step, 2)
        fraction = step.step / step.steps
        eta = (now - self._begin) * (1 - fraction) / fraction
        self.channel.progress(
            Progress(step=step.step, steps=step.steps, fraction=round(fraction, 4), eta_seconds=round(eta, 2))
        )
        if step.render_preview is not None and now - self._last_preview >= self._preview_seconds:
            self._last_preview = now
            previews = map(step.render_preview, range(self._job.request.num_images))
            if (preview := next((each for each in previews if each is not None), None)) is not None:
                self.channel.preview(_preview_json(step.step, preview))


def _preview_json(step: int, pixels: Pixels) -> str:
    image = PillowImage.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return json.dumps({"step": step, "media_type": "image/jpeg", "b64_json": encoded})
