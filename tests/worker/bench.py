"""A test bench for the runner: everything is real but Celery and the engine, which does what the test says."""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from shared.jobs.admission import AdmissionOutcome, QueueLimits
from shared.jobs.job import Job
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.jobs.states import State
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from shared.storage.inputs import InputStore
from shared.storage.object_store import StagingArea
from tests.worker.images.image_checks import Pixels
from worker.engines.base import Engine, JobWatch, SingleEngine
from worker.engines.null import NullEngine
from worker.images.encoder import Encoder
from worker.images.inputs import InputReader
from worker.images.values import Inputs, RenderedImage
from worker.jobs.claims import JobClaimer
from worker.jobs.rendering import Renderer
from worker.jobs.runner import Runner
from worker.jobs.saving import ImageSaver
from worker.records.redis_job_store import RedisJobStore

Generate = Callable[[GenerationRequest, JobWatch], Sequence[RenderedImage]]


@dataclass
class ScriptedEngine(NullEngine):
    """Generates images as the test says, or as the null engine."""

    script: Generate | None = None

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        return self.script(request, watch) if self.script else super().generate(request, inputs, watch)


class CrashingJobStore(RedisJobStore):
    """Ends the process, as a kill would, before a job is recorded as succeeded."""

    def move(self, moves: Sequence[tuple[Job, Job]]) -> list[bool]:
        if any(new.state is State.SUCCEEDED for _, new in moves):
            raise SystemExit
        return super().move(moves)


@dataclass
class Bench:
    redis_url: str
    prefix: str
    folder: Path
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.store = Store(connect(self.redis_url))
        self.jobs = Jobs(self.prefix)
        self.job_store = RedisJobStore(self.store, self.jobs, Backend.NULL)

    @property
    def images(self) -> ImageStore:
        return ImageStore(FolderStore(self.folder))

    @property
    def inputs(self) -> InputStore:
        return self.images.inputs

    def submit(
        self, images: Sequence[bytes] = (), mask: bytes | None = None, *, owner: str = "", **request: Any
    ) -> Job:
        """Queue a new job with its input images."""
        staged = self.inputs.create_staging_area()
        references: dict[str, Any] = {"image": [arrived(staged, image) for image in images]}
        references |= {"mask": arrived(staged, mask)} if mask is not None else {}
        wanted = GenerationRequest.model_validate({"prompt": "x", **references, **request})
        job = Job.new(wanted, Backend.NULL, datetime.now(UTC), owner)
        if images:
            staged.commit(job.id)
        admission = self.store.run(self.jobs.create(job, QueueLimits(1000, 1000)))
        assert admission.outcome is AdmissionOutcome.CREATED
        return job

    def start(self, job: Job) -> Job:
        """Start the job on another worker, which is then silent."""
        running = job.start("null", "another worker", datetime.now(UTC))
        assert self.job_store.move([(job, running)]) == [True]
        return running

    def requeue(self, job: Job) -> Job:
        queued = job.requeue()
        assert self.store.run(self.jobs.move(job, queued))
        return queued

    def run(self, job: Job, script: Generate | None = None) -> Job:
        """Run the next job, then return the record of this one."""
        self.work(script)
        return self.read(job)

    def work(self, script: Generate | None = None) -> None:
        wake(self._runner(self.job_store, script))

    def lose_worker_before_recording(self, job: Job) -> Job:
        """Requeue the job after its worker died with every image stored."""
        with pytest.raises(SystemExit):
            wake(self._runner(CrashingJobStore(self.store, self.jobs, Backend.NULL), None))
        return self.requeue(self.read(job))

    def _runner(self, job_store: RedisJobStore, script: Generate | None) -> Runner:
        return self.runner(ScriptedEngine(script), job_store=job_store)

    def runner(
        self,
        engine: Engine,
        images: ImageStore | None = None,
        *,
        job_store: RedisJobStore | None = None,
        encoder: Encoder | None = None,
        max_batch_size: int = 1,
        time_limit_seconds: float = math.inf,
        stopping: threading.Event | None = None,
    ) -> Runner:
        job_store, images = job_store or self.job_store, images or ImageStore(FolderStore(self.folder))
        reader = InputReader(images.inputs, max_pixels=25_000_000)
        claimer = JobClaimer(
            SingleEngine(engine),
            job_store,
            reader,
            "bench",
            max_batch_size=max_batch_size,
            time_limit_seconds=time_limit_seconds,
            now=self.now,
        )
        renderer = Renderer(reader, time_limit_seconds)
        saver = ImageSaver(images, encoder or Encoder("1"))
        return Runner(claimer, renderer, saver, job_store, now=self.now, stopping=stopping or threading.Event())

    def read(self, job: Job) -> Job:
        found = self.job_store.read(job.id)
        assert found is not None
        return found

    def pixels(self, job: Job) -> Pixels:
        """The pixels of all its images, one below the other."""
        paths = sorted(path for path in self.files if path.name.startswith(job.id))
        return np.concatenate([np.asarray(PillowImage.open(path)) for path in paths])

    def wake_ups(self) -> int:
        """How many wake-ups wait for workers."""
        length: Any = self.store.client.llen(f"{self.prefix}generate.null")
        return int(length)

    @property
    def files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


def wake(runner: Runner) -> None:
    """Do what a wake-up makes a worker do."""
    with runner.claim() as claim:
        if claim is not None:
            runner.run(claim)


def arrived(staged: StagingArea, data: bytes) -> str:
    """Store an upload, valid or not, and return its reference."""
    with staged.start_upload() as file:
        file.write(data)
        return file.finish(max_pixels=10**9).reference


def canvas(pixels: Pixels) -> Generate:
    """Generate these pixels for every request."""
    return lambda request, _: [RenderedImage(pixels, request.seed or 0)]


def speckled(width: int, height: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
