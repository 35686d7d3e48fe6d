"""The pool: what is loaded, what leaves memory, and what happens when something does not work."""

import threading
from collections.abc import Hashable, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.errors import ConfigurationError, ModelNotFound, ModelUnavailable, OutOfMemory
from shared.jobs.job import ModelLoad
from shared.models.capabilities import Capabilities
from shared.models.catalogue import ModelEntry
from worker.engines.base import OnLoad, Sizes
from worker.engines.held_models import HeldModel, total_bytes
from worker.engines.loaded_models import LoadedModels
from worker.engines.model_memory import MemoryBudget
from worker.engines.null import NullEngine

SIZES = {"a": 10, "b": 10, "c": 10, "large": 25, "huge": 100, "d": 10, "e": 10}
#: The largest part of these models.
COMMON, COMMON_SIZE = "encoder", 6


class Weights(NullEngine):
    """An engine that says how large it is and where it is."""

    def __init__(self, name: str, sizes: Sizes, log: list[str]) -> None:
        super().__init__(name)
        self.sizes = sizes
        self._name, self._log = name, log

    def move_to_main_memory(self, staying: Set[Hashable] = frozenset()) -> None:  # noqa: ARG002
        self._log.append(f"{self._name} to main memory")

    def move_to_device(self) -> None:
        self._log.append(f"{self._name} to device")

    def close(self, inherited: Set[Hashable] = frozenset()) -> None:  # noqa: ARG002
        self._log.append(f"{self._name} closed")


@dataclass
class Store:
    """Loads models of SIZES, and notes it."""

    default_model: str = "a"
    log: list[str] = field(default_factory=list)
    revisions: dict[str, str] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    """What the next loads raise."""
    measured: dict[str, int] = field(default_factory=dict)
    """Sizes that differ from what is expected."""

    def capabilities(self, model: str) -> Capabilities:
        return NullEngine.capabilities.model_copy(update={"model": model})

    def revision(self, model: str) -> str | None:
        if model not in SIZES:
            raise ModelNotFound
        return self.revisions.get(model, "1")

    def expected_sizes(self, model: str) -> Sizes:
        return self._sizes(model, SIZES[model])

    def _sizes(self, model: str, size: int) -> Sizes:
        return {COMMON: COMMON_SIZE, model: size - COMMON_SIZE} if model in ("d", "e") else {model: size}

    def scan(self) -> dict[str, ModelEntry]:
        return {}

    def load(self, model: str, on_load: OnLoad) -> Weights:
        if self.errors:
            raise self.errors.pop()
        on_load(SIZES[model] // 2, SIZES[model])
        self.log.append(f"{model} loaded")
        return Weights(model, self._sizes(model, self.measured.get(model, SIZES[model])), self.log)


@dataclass
class Reports:
    loads: list[ModelLoad] = field(default_factory=list)
    evicted_names: list[str] = field(default_factory=list)
    most_bytes: int = 0

    def changed(self, models: Sequence[HeldModel], load: ModelLoad | None) -> None:
        self.most_bytes = max(self.most_bytes, total_bytes(model for model in models if model.is_on_device))
        if load is not None:
            self.loads.append(load)

    def loaded(self, model: HeldModel, seconds: float) -> None:
        pass

    def evicted(self, model: str) -> None:
        self.evicted_names.append(model)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def pool(store: Store, limit: int = 20, **options: Any) -> LoadedModels:
    return LoadedModels(store, MemoryBudget(limit_bytes=limit), Reports(), clock=Clock(), **options)


def with_main_memory(store: Store, limit: int = 20, free: int = 1 << 40) -> LoadedModels:
    budget = MemoryBudget(lambda: 0, lambda: free, limit_bytes=limit)
    return LoadedModels(store, budget, Reports(), clock=Clock())


def use(models: LoadedModels, *names: str) -> None:
    for name in names:
        with models.use(name) as engine:
            assert engine.capabilities.model == name


def test_the_least_recently_used_model_leaves_first() -> None:
    store = Store()
    models = pool(store)

    use(models, "a", "b", "a", "c")

    assert store.log == ["a loaded", "b loaded", "b closed", "c loaded"]
    assert models.loaded == {"a", "c"}


def test_models_never_take_more_than_the_budget() -> None:
    models = pool(Store(), limit=25)

    use(models, "a", "b", "c", "large", "a", "b")

    assert isinstance(models.listener, Reports)
    assert models.listener.most_bytes <= 25


def test_a_model_in_use_stays_and_the_other_one_does_not_fit_beside_it() -> None:
    store = Store()
    models = pool(store)

    with models.use("a"), pytest.raises(ModelUnavailable, match="more memory"), models.use("large"):
        pass

    assert store.log == ["a loaded"]


def test_a_pinned_model_stays() -> None:
    store = Store()
    models = pool(store, pinned=frozenset({"a"}))

    use(models, "a", "b", "c")

    assert models.loaded == {"a", "c"}
    assert not models.unload("a")


def test_a_model_waits_in_main_memory_and_returns_without_a_load() -> None:
    store = Store()
    models = with_main_memory(store)

    use(models, "a", "b", "c", "a")

    assert store.log == [
        "a loaded",
        "b loaded",
        "a to main memory",
        "c loaded",
        "b to main memory",
        "a to device",
    ]
    assert models.loaded == {"a", "b", "c"}


def test_a_full_main_memory_makes_models_leave() -> None:
    store = Store()
    models = with_main_memory(store, free=0)

    use(models, "a", "b", "c")

    assert store.log == ["a loaded", "b loaded", "a closed", "c loaded"]


def test_a_load_that_runs_out_of_memory_evicts_and_tries_again() -> None:
    store = Store()
    models = pool(store, limit=1000)
    use(models, "a", "b")
    store.errors = [OutOfMemory(), MemoryError()]

    use(models, "large")

    assert store.log[2:] == ["a closed", "b closed", "large loaded"]


def test_a_model_for_which_nothing_is_large_enough_fails_and_the_others_go_on() -> None:
    store = Store()
    models = pool(store, limit=1000)
    store.errors = [OutOfMemory()]

    with pytest.raises(ModelUnavailable, match="needs more memory"), models.use("huge"):
        pass

    use(models, "a")


def test_a_model_that_turns_out_larger_than_expected_makes_room_afterwards() -> None:
    store = Store(measured={"b": 15})
    models = pool(store)

    use(models, "a", "b")

    assert models.loaded == {"b"}


@pytest.mark.parametrize("error", [ConfigurationError("The file is broken."), ValueError("secret /path")])
def test_a_model_that_cannot_be_loaded_is_unavailable_and_not_tried_at_once(error: Exception) -> None:
    store = Store(errors=[error])
    models = pool(store)

    for _ in range(2):
        with pytest.raises(ModelUnavailable) as caught, models.use("a"):
            pass
        assert "secret" not in caught.value.detail

    store.revisions["a"] = "2"
    use(models, "a")


def test_a_model_whose_files_were_replaced_is_loaded_again() -> None:
    store = Store()
    models = pool(store)
    use(models, "a")
    store.revisions["a"] = "2"

    use(models, "a")

    assert store.log == ["a loaded", "a closed", "a loaded"]


def test_idle_models_leave_after_the_keep_alive_time() -> None:
    models = pool(Store(), keep_alive_seconds=10)
    use(models, "a")
    assert isinstance(models.clock, Clock)
    models.clock.seconds += 10
    use(models, "b")

    models.expire()

    assert models.loaded == {"b"}


def test_only_one_model_is_loaded_at_a_time() -> None:
    store, at_once, lock = Store(), [], threading.Lock()
    models = pool(store, limit=1000)

    def load(name: str) -> None:
        def count(*_: int) -> None:
            at_once.append(lock.acquire(blocking=False))
            threading.Event().wait(0.01)
            lock.release()

        with models.use(name, count):
            pass

    threads = [threading.Thread(target=load, args=[name]) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert at_once
    assert all(at_once)


def test_progress_is_reported_in_bytes() -> None:
    models = pool(Store())

    use(models, "a")

    assert isinstance(models.listener, Reports)
    assert [(load.bytes_done, load.bytes_total) for load in models.listener.loads] == [(0, 10), (5, 10)]


def test_room_is_measured_before_it_is_needed() -> None:
    free = [30 << 30]
    budget = MemoryBudget(lambda: free[0], lambda: 0)

    assert budget.missing_bytes(20 << 30, 0) <= 0
    free[0] = 10 << 30
    assert budget.missing_bytes(20 << 30, 0) > 10 << 30
    assert budget.missing_bytes(0, 10 << 30) == 0
