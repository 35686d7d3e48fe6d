"""The process that runs jobs: it loads the engine once, then runs the next job at every wake-up."""

import faulthandler
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Self

from shared.jobs.job import Job
from shared.jobs.operations import Jobs, ModelAffinity
from shared.jobs.result_cache import ResultCacheIndex
from shared.jobs.types import Backend
from shared.observability import logs
from shared.observability.tracing import Span, StartTracing, Tracing
from shared.redis.store import Store, connect
from shared.settings.worker import WorkerSettings
from shared.storage import WORKER_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from shared.workers.records import WorkerRecord, Workers, WorkerState
from worker.engines.base import EngineSource, ReportsCredits, ReportsPlacement, acceleration_of
from worker.images.encoder import Encoder
from worker.images.inputs import InputReader
from worker.images.png import PngEncoder
from worker.jobs.claims import JobClaimer
from worker.jobs.finishers import BackgroundFinisher, Finisher
from worker.jobs.rendering import Renderer
from worker.jobs.runner import Runner
from worker.jobs.saving import ImageSaver
from worker.models.sources import MODEL_SETTINGS
from worker.process.cpus import encoding_threads, usable_cpus
from worker.process.download_report import DownloadReport
from worker.process.engine_loading import WorkerEngines, load_engines
from worker.records.heartbeat import Heartbeat
from worker.records.model_reports import ModelUpkeep
from worker.records.recovery import WorkerIdentity
from worker.records.redis_job_store import RedisJobStore
from worker.records.result_cache import RedisResultCache, lifetime

logger = logging.getLogger(__name__)


#: How often the balance of the account with a provider is read.
CREDITS_SECONDS = 300.0


class Child:
    """Thread-safe if the engine is."""

    def __init__(self, runner: Runner, heartbeat: Heartbeat, upkeep: ModelUpkeep | None, tracing: Tracing) -> None:
        self._runner = runner
        self._upkeep = upkeep
        self._tracing = tracing
        self._heartbeat = heartbeat
        self._running: list[str] = []
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        settings: WorkerSettings,
        worker: WorkerIdentity,
        start_tracing: StartTracing,
        on_moved: Callable[[Job], None],
    ) -> Self:
        """Load the model and report its progress. Raise ConfigurationError if that is not possible."""
        tracing = start_tracing()
        store = Store(connect(settings.redis_url))
        images = ImageStore(open_storage(settings, WORKER_TIMEOUTS))
        heartbeat = Heartbeat(store, Workers(settings.redis_prefix), _record(settings, worker))
        heartbeat.start()
        try:
            engines = _load_engines(settings, store, worker, heartbeat, tracing)
        except BaseException:
            heartbeat.stop()
            raise
        jobs, affinity = Jobs(settings.redis_prefix), _affinity(settings, worker, engines.source)
        job_store = RedisJobStore(store, jobs, settings.backend, on_moved, affinity, engines.is_elsewhere)
        runner = _create_runner(settings, engines, worker, store, job_store, images, tracing)
        if engines.upkeep is not None:
            engines.upkeep.start()
        if engines.memory is not None:
            heartbeat.report_memory(engines.memory)
        _announce(settings, engines.source, job_store, heartbeat)
        return cls(runner, heartbeat, engines.upkeep, tracing)

    def run(self) -> Sequence[Job]:
        """Run the next job in the queue and those that go with it, and return them.

        Raise SystemExit once they are recorded if a fresh process has to run the jobs after them.
        """
        with self._runner.claim() as claim:
            jobs = claim.jobs if claim is not None else ()
            if claim is not None:
                with self._busy(jobs[0].id), logs.log_context(job_id=jobs[0].id):
                    self._runner.run(claim)
        if self._runner.needs_restart.is_set():
            self._runner.finisher.drain()
            raise SystemExit(os.EX_SOFTWARE)
        return jobs

    def stop_jobs(self) -> None:
        """Leave every job as soon as that costs nothing; their records still say running."""
        self._runner.stopping.set()

    @property
    def is_stopping(self) -> bool:
        return self._runner.stopping.is_set()

    def end(self) -> None:
        """Wait until every rendered job is recorded."""
        self._runner.finisher.drain()
        if self._upkeep is not None:
            self._upkeep.stop()
        self._heartbeat.stop()
        self._tracing.close()

    @contextmanager
    def _busy(self, job_id: str) -> Iterator[None]:
        self._set_busy(job_id, starts=True)
        try:
            yield
        finally:
            self._set_busy(job_id, starts=False)

    def _set_busy(self, job_id: str, *, starts: bool) -> None:
        """The worker is busy while any job runs; its record names the first one."""
        with self._lock:
            (self._running.append if starts else self._running.remove)(job_id)
            first = self._running[0] if self._running else None
            self._heartbeat.update(state=WorkerState.BUSY if first else WorkerState.READY, current_job=first)


def _announce(settings: WorkerSettings, engines: EngineSource, job_store: RedisJobStore, heartbeat: Heartbeat) -> None:
    """Tell other processes that this worker is ready, and what for."""
    with engines.use(engines.default_model, lambda *_: None) as engine:
        job_store.run(Workers(settings.redis_prefix).set_capabilities(settings.backend, engine.capabilities))
        # A worker that ends may have taken a wake-up that it did not use.
        job_store.run(Jobs(settings.redis_prefix).repair_queue(settings.backend))
        placement = engine.placement if isinstance(engine, ReportsPlacement) else None
        how = {"placement": placement, "acceleration": acceleration_of(engine)}
        heartbeat.update(state=WorkerState.READY, device=engine.device, dtype=engine.dtype, **how)
        if isinstance(engine, ReportsCredits):
            threading.Thread(target=_report_credits, args=(engine, heartbeat), name="credits", daemon=True).start()


def _affinity(settings: WorkerSettings, worker: WorkerIdentity, engines: EngineSource) -> ModelAffinity:
    bound_ms = settings.model_affinity_seconds * 1000
    return ModelAffinity(worker.id, (), engines.default_model, bound_ms)


def _create_runner(
    settings: WorkerSettings,
    engines: WorkerEngines,
    worker: WorkerIdentity,
    store: Store,
    job_store: RedisJobStore,
    images: ImageStore,
    tracing: Tracing,
) -> Runner:
    # Calls to a provider run on many threads of one process: their engine keeps the time limit.
    is_cloud = settings.backend is Backend.FLUX_API
    time_limit = math.inf if is_cloud else settings.job_timeout_seconds
    reader = InputReader(images.inputs, settings.max_image_pixels)
    claimer = JobClaimer(
        engines.source,
        job_store,
        reader,
        worker=worker.id,
        max_pixels=settings.max_pixels,
        max_batch_size=settings.max_batch_size,
        time_limit_seconds=time_limit,
        now=store.now,
    )
    return Runner(
        claimer,
        Renderer(reader, time_limit, _end_hung_process),
        ImageSaver(images, _encoder(settings, is_cloud=is_cloud), settings.job_timeout_seconds, engines.scale),
        job_store,
        _result_cache(settings, store, job_store),
        # A device gets the next job while the last one is written; calls to a provider do not wait for each other.
        finisher=Finisher() if is_cloud else BackgroundFinisher(),
        tracing=tracing,
        now=store.now,
    )


def _encoder(settings: WorkerSettings, *, is_cloud: bool) -> Encoder:
    """Jobs of a provider are encoded side by side anyway.

    More threads take more cores from the job that renders meanwhile, for a shorter time: on two cores it ends no later.
    """
    threads = 1 if is_cloud else encoding_threads(settings.cpu_threads, usable_cpus(), settings.host_workers)
    return Encoder(version("imagegen"), PngEncoder(threads))


def _result_cache(settings: WorkerSettings, store: Store, job_store: RedisJobStore) -> RedisResultCache | None:
    """None if the operator wants no image reused."""
    if not settings.reuse_pictures:
        return None
    kept = lifetime(settings.output_retention_days, settings.job_retention_days)
    return RedisResultCache(store, ResultCacheIndex(settings.redis_prefix), job_store, kept)


def _report_credits(engine: ReportsCredits, heartbeat: Heartbeat) -> None:
    while True:
        if (credits_left := engine.credits()) is not None:
            heartbeat.update(credits=credits_left)
        time.sleep(CREDITS_SECONDS)


def _load_engines(
    settings: WorkerSettings, store: Store, worker: WorkerIdentity, heartbeat: Heartbeat, tracing: Tracing
) -> WorkerEngines:
    begin, begin_ns = time.monotonic(), time.time_ns()
    engines = load_engines(settings, store, worker, heartbeat, DownloadReport(heartbeat))
    model, seconds = engines.source.default_model, time.monotonic() - begin
    with engines.source.use(model, lambda *_: None) as engine:
        logger.info("%s is ready on %s (%s) after %.1f s", model, engine.device, engine.dtype, seconds)
    attributes = {"imagegen.backend": settings.backend.value, "gen_ai.request.model": model}
    tracing.record(Span("load model", begin_ns, time.time_ns(), attributes), "")
    return engines


def _record(settings: WorkerSettings, worker: WorkerIdentity) -> WorkerRecord:
    field = MODEL_SETTINGS.get(settings.backend)
    model = getattr(settings, field) if field else str(settings.backend)
    return WorkerRecord(
        id=worker.id,
        name=worker.node,
        backend=settings.backend,
        state=WorkerState.LOADING,
        model=model,
        concurrency=settings.bfl_concurrency if settings.backend is Backend.FLUX_API else 1,
        started_at=datetime.now(UTC),
    )


@contextmanager
def _end_hung_process(seconds: float) -> Iterator[None]:
    """Unless the block ends in time, dump all stacks and end the process, whatever holds the GIL."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
