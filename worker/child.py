"""The process that does the jobs: loads the backend once, then runs what the pool hands it."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Self, assert_never

from shared.errors import ConfigurationError
from shared.images import ImageStore
from shared.jobs import Jobs
from shared.places import Places
from shared.schemas import Backend as BackendName
from shared.settings import WorkerSettings
from shared.store import Store, connect
from shared.workers import WorkerRecord, Workers, WorkerState
from worker.backends.base import Backend, Metered
from worker.download_report import DownloadReport
from worker.heartbeat import Heartbeat
from worker.ledger import RedisLedger
from worker.models.pipelines import CONFIG
from worker.models.plans import OnProgress
from worker.models.sources import FIELDS, Source
from worker.pictures import Encoder
from worker.places import RedisPlaces
from worker.runner import Runner

logger = logging.getLogger(__name__)


#: How often the account with a provider is looked at.
CREDITS_SECONDS = 300.0


class Child:
    """Safe to share between threads where the backend is."""

    def __init__(self, runner: Runner, heartbeat: Heartbeat) -> None:
        self._runner = runner
        self._heartbeat = heartbeat
        self._running: list[str] = []
        self._lock = threading.Lock()

    @classmethod
    def loaded(cls, settings: WorkerSettings, name: str) -> Self:
        """Load the model, telling of it. Raises ConfigurationError where it cannot be had."""
        store = Store(connect(settings.redis_url))
        workers = Workers(settings.redis_prefix)
        record = _record(settings, name)
        heartbeat = Heartbeat(store, workers, record)
        heartbeat.start()
        try:
            backend = _timed_load(settings, store, DownloadReport(heartbeat))
        except BaseException:
            heartbeat.stop()
            raise
        ledger = RedisLedger(store, Jobs(settings.redis_prefix))
        ledger.tell(workers.tell(settings.backend, backend.capabilities))
        heartbeat.update(state=WorkerState.READY, device=backend.device, dtype=backend.dtype)
        if isinstance(backend, Metered):
            threading.Thread(target=_tell_credits, args=(backend, heartbeat), name="credits", daemon=True).start()
        images = ImageStore(settings.output_dir)
        encoder, most = Encoder(version("imagegen")), (settings.max_pixels, settings.max_image_pixels)
        return cls(Runner(backend, ledger, images, encoder, name, *most), heartbeat)

    def run(self, job_id: str) -> None:
        """Raises SystemExit, when the job is on record as ended, where a fresh process has to do those after it."""
        with self._busy(job_id):
            self._runner.run(job_id)
        if self._runner.retiring.is_set():
            raise SystemExit(os.EX_SOFTWARE)

    def leave(self) -> None:
        """Let go of every job as soon as that costs nothing; they stay on record as running."""
        self._runner.leaving.set()

    @property
    def leaves(self) -> bool:
        return self._runner.leaving.is_set()

    def end(self) -> None:
        self._heartbeat.stop()

    @contextmanager
    def _busy(self, job_id: str) -> Iterator[None]:
        self._tell(job_id, begins=True)
        try:
            yield
        finally:
            self._tell(job_id, begins=False)

    def _tell(self, job_id: str, *, begins: bool) -> None:
        """Busy while any job runs; of several, the first is named."""
        with self._lock:
            (self._running.append if begins else self._running.remove)(job_id)
            first = self._running[0] if self._running else None
            self._heartbeat.update(state=WorkerState.BUSY if first else WorkerState.READY, current_job=first)


def _tell_credits(backend: Metered, heartbeat: Heartbeat) -> None:
    while True:
        if (left := backend.credits()) is not None:
            heartbeat.update(credits=left)
        time.sleep(CREDITS_SECONDS)


def _timed_load(settings: WorkerSettings, store: Store, on_download: OnProgress) -> Backend:
    begin = time.monotonic()
    backend = load_backend(settings, store, on_download)
    spent = time.monotonic() - begin
    model = backend.capabilities.model
    logger.info("%s is ready on %s (%s) after %.1f s", model, backend.device, backend.dtype, spent)
    return backend


def load_backend(settings: WorkerSettings, store: Store, on_download: OnProgress) -> Backend:
    """The engine that SD_BACKEND names; only its own libraries are imported. Raises ConfigurationError."""
    match settings.backend:
        case BackendName.SD:
            model = Source.of(settings, settings.backend).find(on_download)
            # Takes seconds: a wrong SD_MODEL_ID is told before.
            from worker.backends.stable_diffusion import Options, StableDiffusion

            options = Options(
                device=settings.device,
                dtype=settings.dtype,
                safety_checker=_checker_of(settings, on_download),
                lora_dir=settings.lora_dir,
                max_batch_size=settings.max_batch_size,
                cloud=BackendName.FLUX_API in settings.backends and settings.bfl_api_key is not None,
            )
            return StableDiffusion.load(model, options)
        case BackendName.NULL:
            from worker.backends.null import NullBackend

            return NullBackend()
        case BackendName.FLUX_API:
            from worker.backends.flux_api import FluxApi

            if settings.bfl_api_key is None:
                raise ConfigurationError("SD_BFL_API_KEY is empty: flux-api needs a key from https://dashboard.bfl.ai.")
            places = Places(settings.redis_prefix, settings.backend, settings.bfl_concurrency)
            return FluxApi(
                settings.bfl_base_url,
                settings.bfl_api_key,
                settings.bfl_default_model,
                settings.job_timeout_seconds,
                RedisPlaces(store, places),
            )
        case BackendName.FLUX_LOCAL:
            raise ConfigurationError(f"SD_BACKEND is {settings.backend}, which this version does not have.")
        case _:
            assert_never(settings.backend)


def _checker_of(settings: WorkerSettings, on_download: OnProgress) -> Callable[[], Path] | None:
    """Finds the safety checker for models that bring none; None where the operator wants none."""
    source = Source.called(settings, settings.safety_checker_id, "SD_SAFETY_CHECKER_ID", CONFIG)

    def find() -> Path:
        try:
            return Path(source.find(on_download).location)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"Pictures cannot be checked: {error.detail} SD_SAFETY_CHECKER_ID names another checker, a local "
                "folder too; SD_SAFETY_CHECKER=false works without."
            ) from None

    return find if settings.safety_checker else None


def _record(settings: WorkerSettings, name: str) -> WorkerRecord:
    field = FIELDS.get(settings.backend)
    model = getattr(settings, field) if field else str(settings.backend)
    state, now = WorkerState.LOADING, datetime.now(UTC)
    return WorkerRecord(name=name, backend=settings.backend, state=state, model=model, started_at=now)
