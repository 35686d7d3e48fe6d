"""The process that renders: loads the model once, then runs the jobs that the pool hands it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import NoReturn, assert_never

from shared.errors import ConfigurationError
from shared.images import ImageStore
from shared.jobs import Jobs
from shared.schemas import Backend as BackendName
from shared.settings import WorkerSettings
from shared.store import Store, connect
from shared.workers import WorkerRecord, Workers, WorkerState
from worker.app import GIVE_UP
from worker.backends.base import Backend
from worker.heartbeat import Heartbeat
from worker.ledger import RedisLedger
from worker.pictures import Encoder
from worker.runner import Runner

logger = logging.getLogger(__name__)


class Child:
    def __init__(self, settings: WorkerSettings, name: str) -> None:
        store = Store(connect(settings.redis_url))
        self._settings = settings
        self._workers = Workers(settings.redis_prefix)
        self._heartbeat = Heartbeat(store, self._workers, _record(settings, name))
        self._ledger = RedisLedger(store, Jobs(settings.redis_prefix))
        self._runner: Runner | None = None

    def load(self) -> None:
        """Load the model. Where that fails, the whole worker ends with one sentence: it must not take jobs."""
        self._heartbeat.start()
        begin = datetime.now(UTC)
        try:
            backend = load_backend(self._settings)
        except ConfigurationError as error:
            _give_up(error.detail)
        except Exception as error:
            logger.exception("unexpected error while loading")
            _give_up(f"The {self._settings.backend} backend could not be loaded: {error}")
        self._runner = Runner(
            backend, self._ledger, ImageStore(self._settings.output_dir), Encoder(version("imagegen"))
        )
        self._ledger.tell(self._workers.tell(self._settings.backend, backend.capabilities))
        self._heartbeat.update(state=WorkerState.READY, device=backend.device, dtype=backend.dtype)
        spent = (datetime.now(UTC) - begin).total_seconds()
        logger.info(
            "%s is ready on %s (%s) after %.1f s", backend.capabilities.model, backend.device, backend.dtype, spent
        )

    def run(self, job_id: str, *, handed_back: bool) -> None:
        if self._runner is None:
            raise RuntimeError("the pool ran a job before the model was loaded")
        with self._busy(job_id):
            self._runner.run(job_id, handed_back=handed_back)

    def end(self) -> None:
        self._heartbeat.stop()

    @contextmanager
    def _busy(self, job_id: str) -> Iterator[None]:
        self._heartbeat.update(state=WorkerState.BUSY, current_job=job_id)
        try:
            yield
        finally:
            self._heartbeat.update(state=WorkerState.READY, current_job=None)


def load_backend(settings: WorkerSettings) -> Backend:
    """The engine that SD_BACKEND names; only its own libraries are imported. Raises ConfigurationError."""
    match settings.backend:
        case BackendName.SD:
            from worker.backends.stable_diffusion import Source, StableDiffusion

            token = settings.huggingface_token
            source = Source(settings.model_id, settings.model_dir, token.get_secret_value() if token else None)
            return StableDiffusion.load(source, settings.device, settings.dtype)
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


def _give_up(sentence: str) -> NoReturn:
    logger.critical(sentence)
    os.kill(os.getppid(), GIVE_UP)
    # Not sys.exit: billiard would report it as a crash, with a traceback, and Celery swallows it in signal handlers.
    os._exit(os.EX_CONFIG)
