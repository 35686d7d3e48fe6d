"""The pool of models of a worker with a device, and what it publishes."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from shared.errors import ConfigurationError, ModelUnavailable, StoreUnavailable
from shared.jobs.types import Backend
from shared.redis.store import Store
from shared.settings.worker import WorkerSettings
from shared.workers.models import ModelRecords
from worker.engines.held_models import ModelLoader
from worker.engines.loaded_models import LoadedModels
from worker.engines.model_memory import MemoryBudget, main_memory_share
from worker.records.heartbeat import Heartbeat
from worker.records.model_reports import LoadGuard, ModelReports, ModelUpkeep, source_name
from worker.records.recovery import WorkerIdentity


def create_pool(
    settings: WorkerSettings,
    store: Store,
    worker: WorkerIdentity,
    heartbeat: Heartbeat,
    loader: ModelLoader,
    free_device_memory: Callable[[], int | None] = lambda: None,
) -> tuple[LoadedModels, ModelUpkeep]:
    """With the default model loaded. Raises ConfigurationError if that is not possible: then no worker starts."""
    backend, records = settings.backend, ModelRecords(settings.redis_prefix)
    reports = ModelReports(store, records, backend, heartbeat)
    free_main_memory = partial(main_memory_share, settings.host_workers)
    budget = MemoryBudget(free_device_memory, free_main_memory, settings.model_memory_bytes or None)
    guard = LoadGuard(store, records, backend, worker.id).around
    models = LoadedModels(loader, budget, reports, settings.model_keep_alive_seconds, guard=guard)
    source = source_name(settings.model_dir, loader.default_model)
    upkeep = ModelUpkeep(store, records, backend, worker.id, source, models, reports)
    try:
        models.load(models.default_model)
    except ModelUnavailable as error:
        if isinstance(error.__cause__, ConfigurationError):
            raise error.__cause__ from None
        raise ConfigurationError(error.detail) from error
    return models, upkeep


def measured_bytes(store: Store, records: ModelRecords, backend: Backend, model: str) -> int | None:
    """The memory that a model took when a worker loaded it before; None if unknown."""
    with suppress(StoreUnavailable):
        return store.run(records.read_size(backend, model))
    return None
