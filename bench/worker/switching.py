"""Switching between two models of which the device holds one: back from main memory, beside loading from disk."""

import gc
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.figures import Figure, Goal, Scale, compare
from shared.jobs.job import ModelLoad
from shared.jobs.types import Backend
from worker.engines.diffusers.loading.local_models import LocalModels
from worker.engines.diffusers.options import DiffusersOptions
from worker.engines.held_models import HeldModel
from worker.engines.loaded_models import LoadedModels
from worker.engines.model_memory import MemoryBudget
from worker.models.catalogue import Catalogue
from worker.models.sources import STARTER, ModelSource

NAME = "switching back to a model in main memory / loading it from disk"
OTHER = "other"


class _Unheard:
    """A PoolListener for a pool that nobody watches."""

    def changed(self, models: Sequence[HeldModel], load: ModelLoad | None) -> None:
        pass

    def loaded(self, model: HeldModel, seconds: float) -> None:
        pass

    def evicted(self, model: str) -> None:
        pass


def measure(scale: Scale) -> Iterator[Figure]:
    warnings.simplefilter("ignore")
    # As in workers, where the collector does not look through what was imported.
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as folder:
        pool = _pool(Path(folder))

        def back() -> float:
            _use(pool, OTHER)
            return _use(pool, "starter")

        def loaded() -> float:
            pool.unload("starter")
            return _use(pool, "starter")

        back(), loaded()
        result = compare(back, loaded, scale, "switching between models")
        detail = f"{result.our_median * 1000:.0f} ms, from disk {result.their_median * 1000:.0f} ms"
        yield result.figure(NAME, Goal(0.25), detail)


def _use(pool: LoadedModels, model: str) -> float:
    begin = time.perf_counter()
    with pool.use(model):
        return time.perf_counter() - begin


def _pool(folder: Path) -> LoadedModels:
    """With room for one of two models that are as large as the starter."""
    shutil.copytree(STARTER, folder / OTHER)
    default = ModelSource("", "starter", folder).ensure_downloaded()
    models = LocalModels(Catalogue(folder, settling_seconds=0), default, DiffusersOptions(), Backend.SD)
    models.scan()
    pool = LoadedModels(models, MemoryBudget(lambda: 0, limit_bytes=1 << 62), _Unheard())
    pool.load("starter")
    pool.budget = MemoryBudget(lambda: 0, limit_bytes=pool.models[0].size_bytes * 3 // 2)
    return pool
