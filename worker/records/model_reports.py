"""What a worker publishes about its models, and the commands that it follows."""

import hashlib
import logging
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.errors import ImagegenError, ModelUnavailable, StoreUnavailable
from shared.jobs.job import ModelLoad
from shared.jobs.types import Backend
from shared.models.catalogue import ModelEntry
from shared.redis.store import Store
from shared.workers.models import MAX_LOST_LOADS, ModelAction, ModelCommand, ModelRecords
from shared.workers.records import ModelInMemory
from worker.engines.base import ReportsPlacement, acceleration_of
from worker.engines.held_models import HeldModel, added_bytes
from worker.engines.loaded_models import LoadedModels
from worker.records.heartbeat import Heartbeat
from worker.records.redis_retry import errors_logged

logger = logging.getLogger(__name__)

#: How often commands are looked for, and idle models are evicted.
COMMAND_SECONDS = 1.0
#: How often the models on disk are scanned: new files are offered within seconds. Scans take at most this share of the
#: time; slow ones are rarer.
SCAN_SECONDS = 2.0
SCAN_SHARE = 0.02
#: How often a source without changes reports that it still exists.
REFRESH_SECONDS = 10.0


class LoadGuard:
    """Stops loading a model whose loads keep ending the process."""

    def __init__(self, store: Store, records: ModelRecords, backend: Backend, worker: str) -> None:
        self._store, self._records, self._backend, self._worker = store, records, backend, worker

    @contextmanager
    def around(self, model: str, revision: str | None) -> Iterator[None]:
        """For the time of a load. Raises what `begin` raises."""
        self.begin(model, revision)
        try:
            yield
        finally:
            self.end(model, revision)

    def begin(self, model: str, revision: str | None) -> None:
        """Raises ModelUnavailable if too many loads of these files have ended their process."""
        with suppress(StoreUnavailable):
            if not self._store.run(self._records.begin_load(self._backend, model, revision or "", self._worker)):
                raise ModelUnavailable(
                    f"The model {model} cannot be loaded: its process ended {MAX_LOST_LOADS} times "
                    "during the load, probably because memory ran out."
                )

    def end(self, model: str, revision: str | None) -> None:
        with suppress(StoreUnavailable):
            self._store.run(self._records.end_load(self._backend, model, revision or ""))


class ModelReports:
    """Tells other processes what is in memory. A PoolListener."""

    def __init__(self, store: Store, records: ModelRecords, backend: Backend, heartbeat: Heartbeat) -> None:
        self._store, self._records, self._backend, self._heartbeat = store, records, backend, heartbeat
        self.pinned: frozenset[str] = frozenset()

    def changed(self, models: Sequence[HeldModel], load: ModelLoad | None) -> None:
        held = tuple(
            ModelInMemory(
                name=model.name,
                bytes=model.size_bytes,
                shared_bytes=model.size_bytes - added_bytes(model.sizes, [one for one in models if one is not model]),
                on_device=model.is_on_device,
                pinned=model.name in self.pinned,
                placement=model.engine.placement if isinstance(model.engine, ReportsPlacement) else None,
                acceleration=acceleration_of(model.engine),
            )
            for model in models
        )
        self._heartbeat.update(models=held, loading=load)

    def loaded(self, model: HeldModel, seconds: float) -> None:
        with suppress(StoreUnavailable):
            self._store.run(
                self._records.record_load(self._backend, model.name, round(seconds * 1000), model.size_bytes)
            )

    def evicted(self, model: str) -> None:  # noqa: ARG002 - counted, not named
        with suppress(StoreUnavailable):
            self._store.run(self._records.count_eviction(self._backend))


class ModelUpkeep:
    """Publishes the models on disk, follows commands and evicts idle models, on a thread of its own."""

    def __init__(
        self,
        store: Store,
        records: ModelRecords,
        backend: Backend,
        worker: str,
        source: str,
        models: LoadedModels,
        reports: ModelReports,
    ) -> None:
        self._store, self._records, self._backend = store, records, backend
        self._worker, self._source = worker, source
        self._models, self._reports = models, reports
        self._published: Mapping[str, ModelEntry] | None = None
        self._published_at = self._scan_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def start(self) -> None:
        """Publish once, so that whoever sees this worker as ready also sees its models."""
        with suppress(StoreUnavailable):
            self._publish()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(COMMAND_SECONDS):
            with errors_logged("the upkeep of models"):
                self._follow_commands()
                self._models.expire()
                if time.monotonic() >= self._scan_at:
                    self._publish()

    def _publish(self) -> None:
        begin = time.monotonic()
        entries = self._models.loader.scan()
        now = time.monotonic()
        self._scan_at = now + max(SCAN_SECONDS, (now - begin) / SCAN_SHARE)
        known = self._published
        changed = [entry for name, entry in entries.items() if known is None or known.get(name) != entry]
        removed = [name for name in known or () if name not in entries]
        if not (known is None or changed or removed or now >= self._published_at + REFRESH_SECONDS):
            return
        publish = self._records.publish
        if known is None or not self._store.run(
            publish(self._backend, self._source, changed, removed, is_complete=False)
        ):
            self._store.run(publish(self._backend, self._source, entries.values(), is_complete=True))
        self._published, self._published_at = entries, now

    def _follow_commands(self) -> None:
        commands, pinned = self._store.run(self._records.take_commands(self._backend, self._worker))
        if pinned != self._reports.pinned:
            self._reports.pinned = self._models.pinned = pinned
            self._reports.changed(self._models.models, None)
        for command in commands:
            self._follow(command)

    def _follow(self, command: ModelCommand) -> None:
        match command.action:
            case ModelAction.LOAD:
                try:
                    self._models.load(command.model)
                except ImagegenError as error:
                    logger.warning("%s was not loaded: %s", command.model, error.detail)
            case ModelAction.UNLOAD:
                if not self._models.unload(command.model):
                    logger.info("%s stays in memory: it is busy, pinned or not there", command.model)


def source_name(model_dir: Path, default_model: str) -> str:
    """Names where models lie: workers on one machine with the same folder and default model publish the same.

    Machines and containers may share a host name.
    """
    place = f"{platform.node()} {_running_system()} {_folder_id(model_dir)} {model_dir.absolute()} {default_model}"
    return hashlib.sha256(place.encode()).hexdigest()[:12]


def _running_system() -> str:
    """Linux has a new id at each start, also on a copy of a machine."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _folder_id(folder: Path) -> str:
    with suppress(OSError):
        status = folder.stat()
        return f"{status.st_dev} {status.st_ino}"
    return ""
