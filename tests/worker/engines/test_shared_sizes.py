"""The pool with models that have parts in common: what they take together, and what leaves with one of them."""

import pytest

from tests.worker.engines.test_loaded_models import Clock, Reports, Store, pool, use
from worker.engines.loaded_models import LoadedModels
from worker.engines.model_memory import MemoryBudget


def test_room_is_made_only_for_parts_that_no_other_model_has() -> None:
    store = Store()
    models = pool(store, limit=24)

    use(models, "a", "d", "e")

    assert models.loaded == {"a", "d", "e"}
    assert [model.size_bytes for model in models.models] == [10, 10, 10]
    use(models, "b")
    assert models.loaded == {"d", "e", "b"}


def test_room_for_the_rest_of_a_model_is_made_when_the_one_with_its_parts_leaves() -> None:
    models = pool(Store(), limit=13)

    use(models, "d", "e")

    assert models.loaded == {"e"}


@pytest.mark.parametrize(("free", "loaded"), [(1 << 40, {"d"}), (0, set())])
def test_a_model_in_main_memory_inherits_parts_of_one_that_leaves_if_they_fit_there(
    free: int, loaded: set[str]
) -> None:
    store = Store()
    budget = MemoryBudget(lambda: 0, lambda: available[0], limit_bytes=14)
    models, available = LoadedModels(store, budget, Reports(), clock=Clock()), [1 << 40]
    use(models, "d", "a", "e")
    assert store.log == ["d loaded", "d to main memory", "a loaded", "a to main memory", "e loaded"]
    models.unload("a")
    available[0] = free

    models.unload("e")

    assert models.loaded == loaded


def test_idle_models_with_parts_in_common_leave_together_where_none_can_inherit_them() -> None:
    budget = MemoryBudget(lambda: 0, lambda: available[0], limit_bytes=14)
    reports, available = Reports(), [1 << 40]
    models = LoadedModels(Store(), budget, reports, keep_alive_seconds=0, clock=Clock())
    use(models, "d", "a", "e")
    available[0] = 0

    models.expire()

    assert models.loaded == set()
    assert sorted(reports.evicted_names) == ["a", "d", "e"]
