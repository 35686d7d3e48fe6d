"""The process that does the jobs: loads the backend once, then does the next job whenever the pool wakes it."""

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
from shared.jobs.operations import Jobs
from shared.jobs.result_cache import ResultCacheIndex
from shared.observability import logs
from shared.observability.tracing import Span, StartTracing, Tracing
from shared.redis.store import Store, connect
from shared.settings.worker import WorkerSettings
from shared.storage import WORKER_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from shared.workers.records import WorkerRecord, Workers, WorkerState
from worker.engines.base import Engine, ReportsCredits, ReportsMemory, ReportsPlacement, Reproducible
from worker.images.encoder import Encoder
from worker.images.inputs import InputReader
from worker.jobs.claims import Claims
from worker.jobs.finishers import BackgroundFinisher, InlineFinisher
from worker.jobs.runner import Runner
from worker.models.download_plans import OnProgress
from worker.models.sources import FIELDS
from worker.process.download_report import DownloadReport
from worker.process.engine_loading import load_engine
from worker.records.heartbeat import Heartbeat
from worker.records.recovery import WorkerIdentity
from worker.records.redis_ledger import RedisLedger
from worker.records.result_cache import RedisResultCache, lifetime

logger = logging.getLogger(__name__)


#: How often the account with a provider is looked at.
CREDITS_SECONDS = 300.0


class Child:
    """Safe to share between threads where the backend is."""

    def __init__(self, runner: Runner, heartbeat: Heartbeat, tracing: Tracing) -> None:
        self._runner = runner
        self._tracing = tracing
        self._heartbeat = heartbeat
        self._running: list[str] = []
        self._lock = threading.Lock()

    @classmethod
    def loaded(
        cls, settings: WorkerSettings, worker: WorkerIdentity, traced: StartTracing, on_moved: Callable[[Job], None]
    ) -> Self:
        """Load the model, telling of it. Raises ConfigurationError where it cannot be had."""
        tracing = traced()
        home = open_storage(settings, WORKER_TIMEOUTS)
        store = Store(connect(settings.redis_url))
        workers = Workers(settings.redis_prefix)
        record = _record(settings, worker)
        heartbeat = Heartbeat(store, workers, record)
        heartbeat.start()
        try:
            backend = _timed_load(settings, store, DownloadReport(heartbeat), tracing)
        except BaseException:
            heartbeat.stop()
            raise
        ledger = RedisLedger(store, Jobs(settings.redis_prefix), settings.backend, on_moved)
        # Calls to a provider are many threads of one process: their backend keeps the time.
        time_limit = math.inf if isinstance(backend, ReportsCredits) else settings.job_timeout_seconds
        ledger.tell(workers.set_capabilities(settings.backend, backend.capabilities))
        # A worker that ends may take a wake-up along that it will not use.
        ledger.tell(Jobs(settings.redis_prefix).repair_queue(settings.backend))
        placement = backend.placement if isinstance(backend, ReportsPlacement) else None
        heartbeat.update(state=WorkerState.READY, device=backend.device, dtype=backend.dtype, placement=placement)
        if isinstance(backend, ReportsMemory):
            heartbeat.measure(backend.memory)
        if isinstance(backend, ReportsCredits):
            threading.Thread(target=_tell_credits, args=(backend, heartbeat), name="credits", daemon=True).start()
        images = ImageStore(home)
        claims = Claims(
            backend,
            ledger,
            InputReader(images.inputs, settings.max_image_pixels),
            worker=worker.id,
            max_pixels=settings.max_pixels,
            max_batch_size=settings.max_batch_size,
            time_limit_seconds=time_limit,
            now=store.now,
        )
        runner = Runner(
            backend,
            claims,
            ledger,
            images,
            Encoder(version("imagegen")),
            repeats=_repeats(settings, store, ledger, backend),
            # A device is to have the next job while the last one is written; calls to a provider wait for nobody.
            finish=InlineFinisher() if isinstance(backend, ReportsCredits) else BackgroundFinisher(),
            tracing=tracing,
            now=store.now,
            time_limit_seconds=time_limit,
            guard=_ending_a_hang,
            paid_seconds=settings.job_timeout_seconds,
        )
        return cls(runner, heartbeat, tracing)

    def run(self) -> Sequence[Job]:
        """Do what is next in the queue; what that was.

        Raises SystemExit, when it is on record as ended, where a fresh process has to do those after it.
        """
        jobs = self._runner.claim()
        if jobs:
            with self._busy(jobs[0].id), logs.log_context(job_id=jobs[0].id):
                self._runner.run(jobs)
        if self._runner.retiring.is_set():
            self._runner.finish.drain()
            raise SystemExit(os.EX_SOFTWARE)
        return jobs

    def leave(self) -> None:
        """Let go of every job as soon as that costs nothing; they stay on record as running."""
        self._runner.leaving.set()

    @property
    def leaves(self) -> bool:
        return self._runner.leaving.is_set()

    def end(self) -> None:
        """Once every job that was rendered is on record."""
        self._runner.finish.drain()
        self._heartbeat.stop()
        self._tracing.close()

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


def _repeats(settings: WorkerSettings, store: Store, ledger: RedisLedger, backend: Engine) -> RedisResultCache | None:
    """None where the operator wants every image made anew, and where models may change behind a name."""
    if not (settings.reuse_pictures and isinstance(backend, Reproducible)):
        return None
    kept = lifetime(settings.output_retention_days, settings.job_retention_days)
    return RedisResultCache(store, ResultCacheIndex(settings.redis_prefix), ledger, backend.identity, kept)


def _tell_credits(backend: ReportsCredits, heartbeat: Heartbeat) -> None:
    while True:
        if (left := backend.credits()) is not None:
            heartbeat.update(credits=left)
        time.sleep(CREDITS_SECONDS)


def _timed_load(settings: WorkerSettings, store: Store, on_download: OnProgress, tracing: Tracing) -> Engine:
    begin, begun_at = time.monotonic(), time.time_ns()
    backend = load_engine(settings, store, on_download)
    spent = time.monotonic() - begin
    model = backend.capabilities.model
    logger.info("%s is ready on %s (%s) after %.1f s", model, backend.device, backend.dtype, spent)
    about = {"imagegen.job.backend": settings.backend.value, "imagegen.job.model": model}
    tracing.record(Span("load model", begun_at, time.time_ns(), about), "")
    return backend


def _record(settings: WorkerSettings, worker: WorkerIdentity) -> WorkerRecord:
    field = FIELDS.get(settings.backend)
    model = getattr(settings, field) if field else str(settings.backend)
    state, now = WorkerState.LOADING, datetime.now(UTC)
    return WorkerRecord(
        id=worker.id, name=worker.node, backend=settings.backend, state=state, model=model, started_at=now
    )


@contextmanager
def _ending_a_hang(seconds: float) -> Iterator[None]:
    """Shows where every thread stands and ends the process if this is not over by then, whatever holds the GIL."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
