"""The pool, when a model cannot be loaded: what had been read of it is freed at once."""

import gc
import weakref
from dataclasses import dataclass, field
from threading import Event
from typing import NoReturn

import pytest

from shared.errors import ConfigurationError, ModelUnavailable, OutOfMemory
from tests.worker.engines.test_loaded_models import Clock, Reports, Store, Weights, pool, use
from worker.engines.base import OnLoad
from worker.engines.loaded_models import LoadedModels
from worker.engines.model_memory import MemoryBudget


@dataclass
class Failing(Store):
    """Fails to load one model, when its weights have been read."""

    failure: Exception = field(default_factory=OutOfMemory)
    read: list[weakref.ref[Event]] = field(default_factory=list)

    def load(self, model: str, on_load: OnLoad) -> Weights:
        if model != "b" or len(self.read) > 1:
            return super().load(model, on_load)
        try:
            self._place(model)
        except RuntimeError as error:
            raise self.failure from error

    def _place(self, model: str) -> NoReturn:
        weights = Event()
        self.read.append(weakref.ref(weights))
        raise RuntimeError(f"the device failed to take {weights} of {model}")

    def are_in_memory(self) -> bool:
        gc.collect()
        return self.read[-1]() is not None


def test_a_load_that_failed_leaves_nothing_in_memory() -> None:
    store = Failing(failure=ConfigurationError("The device failed."))
    models = pool(store)

    with pytest.raises(ModelUnavailable):
        use(models, "b")

    assert not store.are_in_memory()


def test_what_a_load_had_read_is_freed_before_other_models_leave_for_it() -> None:
    """Whatever decides where a model goes measures what is free."""
    store, found = Failing(), list[bool]()

    class Watching(Reports):
        def evicted(self, model: str) -> None:
            super().evicted(model)
            found.append(store.are_in_memory())

    models = LoadedModels(store, MemoryBudget(limit_bytes=1000), Watching(), clock=Clock())
    use(models, "a", "c", "b")

    assert found == [False, False]
