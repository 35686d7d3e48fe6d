"""Monitoring a job while it renders: progress with an estimate, previews, cancellation and the time limit."""

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
from worker.jobs.job_store import JobStore, ProgressChannel

logger = logging.getLogger(__name__)

#: Age of a job at its first preview, and time between previews: short jobs cost nothing extra.
PREVIEW_SECONDS = 1.0
PREVIEW_SIDE = 256


class WorkerStopping(Exception):
    """The worker ends before the job does; the job is to be requeued."""


class JobMonitor:
    """The JobWatch of one job."""

    def __init__(
        self,
        job: Job,
        channel: ProgressChannel,
        job_store: JobStore,
        stopping: threading.Event,
        needs_restart: threading.Event,
        batch_size: int = 1,
    ) -> None:
        """`batch_size` counts the jobs rendered together: all their previews cost no more than those of one job."""
        self.channel = channel
        self.warnings: list[str] = []
        self.step_ms: float | None = None
        """Mean duration of a step so far; None before the first."""
        self._preview_seconds = PREVIEW_SECONDS * batch_size
        self._num_previews = 0
        self._job = job
        self._job_store = job_store
        self._stopping = stopping
        self._needs_restart = needs_restart
        self._deadline = math.inf
        self._begin = self._last_preview = time.monotonic()

    @property
    def provider_tasks(self) -> tuple[ProviderTask, ...]:
        return self._job.providers

    def save_provider_tasks(self, tasks: tuple[ProviderTask, ...]) -> None:
        job = self._job.model_copy(update={"providers": tasks})
        self._job_store.save_provider_tasks(job)
        self._job = job

    def add_warning(self, warning: str) -> None:
        self.warnings.append(warning)

    def request_restart(self, reason: str) -> None:
        logger.error("this process restarts after this job: %s", reason, extra={"job_id": self._job.id})
        self._needs_restart.set()

    def begin(self, time_limit_seconds: float) -> None:
        """Rendering begins. After the limit, `check` and `on_step` raise TimedOut."""
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
        elapsed = time.monotonic() - self._begin
        self.step_ms = round(elapsed * 1000 / step.step, 2)
        fraction = step.step / step.steps
        eta = round(elapsed * (1 - fraction) / fraction, 2)
        self.channel.progress(Progress(step=step.step, steps=step.steps, fraction=round(fraction, 4), eta_seconds=eta))
        self._send_preview(step)

    def _send_preview(self, step: Step) -> None:
        """Send the first image that has a preview, if one is due."""
        now = time.monotonic()
        if step.render_preview is None or not self._is_preview_due(step, now):
            return
        self._last_preview, self._num_previews = now, self._num_previews + 1
        previews = map(step.render_preview, range(self._job.request.num_images))
        if (pixels := next((preview for preview in previews if preview is not None), None)) is not None:
            is_requested = self._job.request.previews is not None
            self.channel.preview(_preview_json(step.step, pixels), at_once=is_requested)

    def _is_preview_due(self, step: Step, now: float) -> bool:
        wanted = self._job.request.previews
        if wanted is None:
            return now - self._last_preview >= self._preview_seconds
        # The first after the first step, the others at equal distances before the last one.
        return self._num_previews < wanted and (step.step - 1) * wanted >= self._num_previews * (step.steps - 1)


def _preview_json(step: int, pixels: Pixels) -> str:
    image = PillowImage.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return json.dumps({"step": step, "media_type": "image/jpeg", "b64_json": encoded})
