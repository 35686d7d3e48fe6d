"""Estimates from what workers report."""

from datetime import UTC, datetime

from shared.jobs.types import Backend
from shared.workers.records import Fleet, ModelInMemory, WorkerRecord, WorkerState


def worker(*models: str) -> WorkerRecord:
    return WorkerRecord(
        id="w",
        name="w",
        backend=Backend.SD,
        state=WorkerState.READY,
        model="starter",
        started_at=datetime.now(UTC),
        models=tuple(ModelInMemory(name=name, bytes=1, on_device=True) for name in models),
    )


def fleet(*workers: WorkerRecord) -> Fleet:
    load_ms = {Backend.SD: {"large": 20_000, "small": 1_000}}
    return Fleet(workers, {}, {}, {}, 0, load_ms=load_ms)


def test_a_wait_contains_the_loads_of_models_that_no_worker_has() -> None:
    waiting = fleet(worker("small"))

    assert waiting.wait_seconds(Backend.SD, 3_000, ["small"]) == 3.0
    assert waiting.wait_seconds(Backend.SD, 3_000, ["small", "large", "large"]) == 23.0


def test_workers_share_the_wait() -> None:
    assert fleet(worker("small"), worker("large")).wait_seconds(Backend.SD, 3_000, ["small", "large"]) == 1.5


def test_a_model_that_was_never_loaded_adds_nothing() -> None:
    assert fleet(worker()).wait_seconds(Backend.SD, 3_000, ["new"]) == 3.0
