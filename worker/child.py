"""The process that renders: loads the model once, then runs the jobs that the pool hands it."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Self, assert_never

from shared.errors import ConfigurationError
from shared.images import ImageStore
from shared.jobs import Jobs
from shared.schemas import Backend as BackendName
from shared.settings import WorkerSettings
from shared.store import Store, connect
from shared.workers import WorkerRecord, Workers, WorkerState
from worker.backends.base import Backend
from worker.heartbeat import Heartbeat
from worker.ledger import RedisLedger
from worker.pictures import Encoder
from worker.runner import Runner

logger = logging.getLogger(__name__)


class Child:
    def __init__(self, runner: Runner, heartbeat: Heartbeat) -> None:
        self._runner = runner
        self._heartbeat = heartbeat

    @classmethod
    def loaded(cls, settings: WorkerSettings, name: str) -> Self:
        """Load the model, telling of it. Raises ConfigurationError where it cannot be had."""
        store = Store(connect(settings.redis_url))
        workers = Workers(settings.redis_prefix)
        heartbeat = Heartbeat(store, workers, _record(settings, name))
        heartbeat.start()
        try:
            backend = _timed_load(settings)
        except BaseException:
            heartbeat.stop()
            raise
        ledger = RedisLedger(store, Jobs(settings.redis_prefix))
        ledger.tell(workers.tell(settings.backend, backend.capabilities))
        heartbeat.update(state=WorkerState.READY, device=backend.device, dtype=backend.dtype)
        images = ImageStore(settings.output_dir)
        return cls(Runner(backend, ledger, images, Encoder(version("imagegen")), name), heartbeat)

    def run(self, job_id: str) -> None:
        with self._busy(job_id):
            self._runner.run(job_id)

    def end(self) -> None:
        self._heartbeat.stop()

    @contextmanager
    def _busy(self, job_id: str) -> Iterator[None]:
        self._heartbeat.update(state=WorkerState.BUSY, current_job=job_id)
        try:
            yield
        finally:
            self._heartbeat.update(state=WorkerState.READY, current_job=None)


def _timed_load(settings: WorkerSettings) -> Backend:
    begin = time.monotonic()
    backend = load_backend(settings)
    spent = time.monotonic() - begin
    model = backend.capabilities.model
    logger.info("%s is ready on %s (%s) after %.1f s", model, backend.device, backend.dtype, spent)
    return backend


def load_backend(settings: WorkerSettings) -> Backend:
    """The engine that SD_BACKEND names; only its own libraries are imported. Raises ConfigurationError."""
    match settings.backend:
        case BackendName.SD:
            from worker.backends.sources import Source

            token = settings.huggingface_token
            source = Source(settings.model_id, settings.model_dir, token.get_secret_value() if token else None)
            model = source.find()
            # Takes seconds: a wrong SD_MODEL_ID is told before.
            from worker.backends.stable_diffusion import StableDiffusion

            return StableDiffusion.load(model, settings.device, settings.dtype)
        case BackendName.NULL:
            from worker.backends.null import NullBackend

            return NullBackend()
        case BackendName.FLUX_LOCAL | BackendName.FLUX_API:
            raise ConfigurationError(f"SD_BACKEND is {settings.backend}, which this version does not have.")
        case _:
            assert_never(settings.backend)


def _record(settings: WorkerSettings, name: str) -> WorkerRecord:
    model = settings.model_id if settings.backend is BackendName.SD else str(settings.backend)
    state, now = WorkerState.LOADING, datetime.now(UTC)
    return WorkerRecord(name=name, backend=settings.backend, state=state, model=model, started_at=now)
