"""Asks workers to load and unload models."""

from collections.abc import Sequence

from api.models.offered import OfferedModel, OfferedModels
from shared.errors import BackendUnavailable, ModelUnavailable
from shared.redis.store import AsyncStore
from shared.workers.models import ModelAction, ModelCommand, ModelRecords
from shared.workers.records import WorkerRecord


async def start_load(store: AsyncStore, models: OfferedModels, model: OfferedModel) -> None:
    """Ask the worker with the fewest models, unless one has the model or is loading it.

    Raises BackendUnavailable, ModelUnavailable and StoreUnavailable.
    """
    entry = model.entry
    if not model.state.is_usable:
        raise ModelUnavailable(f"The model {entry.name} is {model.state}.")
    if model.workers or model.load is not None:
        return
    workers = models.fleet.workers_of(entry.backend)
    if not workers:
        raise BackendUnavailable(f"No worker serves {entry.backend} now.")
    chosen = min(workers, key=lambda worker: (len(worker.models), worker.id))
    await _send(store, models, [chosen], ModelCommand(action=ModelAction.LOAD, model=entry.name))


async def unload(store: AsyncStore, models: OfferedModels, model: OfferedModel) -> None:
    """Ask all workers that have the model in memory. Raises StoreUnavailable."""
    command = ModelCommand(action=ModelAction.UNLOAD, model=model.entry.name)
    await _send(store, models, model.workers, command)


async def _send(
    store: AsyncStore, models: OfferedModels, workers: Sequence[WorkerRecord], command: ModelCommand
) -> None:
    if workers:
        records = ModelRecords(models.settings.redis_prefix)
        await store.run(records.send_command([worker.id for worker in workers], command))
