"""Models with parts in common: what they take, and what leaves and moves with one of them."""

import gc
import weakref
from collections.abc import Callable, Hashable, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shared.errors import ConfigurationError
from tests.worker.engines.diffusers.memory.two_models import (
    ONE,
    OTHER,
    bare_pixels,
    load,
    models_in,
    part_of,
    pixels_of,
    pool_of,
    shared_names,
)
from worker.engines.diffusers.engine import DiffusersEngine
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.engines.diffusers.memory import placement
from worker.models.placements import Placement

pytestmark = pytest.mark.filterwarnings("ignore::Warning:(diffusers|transformers|torch|peft)")


def test_a_model_that_leaves_takes_nothing_from_the_other(two_models: Path) -> None:
    pool = pool_of(models_in(two_models))
    pool.load(ONE)
    with pool.use(OTHER) as other:
        assert isinstance(other, DiffusersEngine)
        encoder = weakref.ref(part_of(other, "text_encoder"))
        before = pixels_of(other)

        assert pool.unload(ONE)

        assert np.array_equal(pixels_of(other), before)
    del other
    assert pool.unload(OTHER)
    gc.collect()
    assert encoder() is None, "nothing but models keeps a part"


def test_the_budget_counts_a_part_that_models_share_once(two_models: Path) -> None:
    models = models_in(two_models)
    one, other = load(models, ONE), load(models, OTHER)
    both = sum({**one.sizes, **other.sizes}.values())
    encoder = one.sizes[id(part_of(one, "text_encoder"))]
    sizes = {ONE: sum(one.sizes.values()), OTHER: sum(other.sizes.values())}
    one.close()
    other.close()
    held = {}
    for limit in (both, both - encoder):
        models.measured_bytes = sizes.get
        pool = pool_of(models, limit)
        for name in (ONE, OTHER):
            pool.load(name)
        held[limit] = pool.loaded
        for name in (ONE, OTHER):
            pool.unload(name)

    assert held == {both: {ONE, OTHER}, both - encoder: {OTHER}}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    ],
)
def test_a_load_that_runs_out_of_memory_beside_the_model_with_its_parts_succeeds_without_it(
    error: Exception, two_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(models_in(two_models))
    pool.load(ONE)
    place, crowded = placement.place, [True]

    def full_once(*arguments: Any) -> None:
        if crowded.pop() if crowded else False:
            raise error
        place(*arguments)

    monkeypatch.setattr(placement, "place", full_once)

    with pool.use(OTHER) as other:
        assert np.array_equal(pixels_of(other), bare_pixels(two_models / OTHER))
    assert pool.loaded == {OTHER}


@pytest.mark.parametrize("wanted", [Placement.MODEL_OFFLOAD, Placement.GROUP_OFFLOAD])
def test_a_model_whose_parts_wait_in_main_memory_has_its_own(
    wanted: Placement, two_models: Path, parts_read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_in(two_models)
    one = load(models, ONE)
    monkeypatch.setattr(placement, "choose_placement", lambda *_: wanted)
    other = load(models, OTHER)

    assert shared_names(one, other) == set()
    assert parts_read.count("text_encoder") == 1, "the copy is made in memory"
    for name, engine in ((OTHER, other), (ONE, one), (OTHER, other)):
        assert np.array_equal(pixels_of(engine), bare_pixels(two_models / name))


def test_a_part_stays_on_the_device_as_long_as_a_model_there_has_it(
    two_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, moved = models_in(two_models), list[Set[Hashable]]()
    # The starter model is larger than both together.
    limit = sum(models.expected_sizes("starter").values())
    pool = pool_of(models, limit, free_device_memory=lambda: 0, free_main_memory=lambda: 1 << 40)
    for name in (ONE, OTHER):
        pool.load(name)
    other, one = (model.sizes.keys() for model in pool.models)
    monkeypatch.setattr(Pipelines, "to_main_memory", lambda held, parts: moved.append(held.sizes.keys() & parts))

    def moved_by(action: Callable[[str], object], model: str) -> list[Set[Hashable]]:
        moved.clear()
        action(model)
        return [*moved]

    assert moved_by(pool.load, "starter") == [one - other, other]
    pool.load(OTHER)
    assert moved_by(pool.unload, OTHER) == [one & other], "they wait with the other model"
    assert moved_by(pool.unload, ONE) == [set()]


def test_a_load_that_fails_leaves_parts_of_other_models_where_they_were(
    two_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, moved = models_in(two_models), list[torch.device]()
    one = load(models, ONE)
    monkeypatch.setattr(placement, "place", lambda *_: torch.zeros(1).view(2))
    monkeypatch.setattr(part_of(one, "text_encoder"), "to", moved.append)

    with pytest.raises(ConfigurationError, match="shape"):
        load(models, OTHER)

    assert moved == [torch.device("cpu")]
