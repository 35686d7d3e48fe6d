"""Estimates from what workers report."""

from datetime import UTC, datetime

from shared.jobs.types import Backend
from shared.workers.records import Fleet, ModelInMemory, WorkerRecord, WorkerState


def worker(*models: str, name: str = "w", concurrency: int = 1) -> WorkerRecord:
    return WorkerRecord(
        id=name,
        name=name,
        backend=Backend.SD,
        state=WorkerState.READY,
        model="starter",
        concurrency=concurrency,
        started_at=datetime.now(UTC),
        models=tuple(ModelInMemory(name=name, bytes=1, on_device=True) for name in models),
    )


def fleet(*workers: WorkerRecord, **remaining_ms: list[int]) -> Fleet:
    load_ms = {Backend.SD: {"large": 20_000, "small": 1_000}}
    return Fleet(workers, {}, {}, {}, 0, load_ms=load_ms, remaining_ms=remaining_ms)


def test_a_wait_contains_the_loads_of_models_that_no_worker_has() -> None:
    waiting = fleet(worker("small"))

    assert waiting.wait_seconds(Backend.SD, 3_000, ["small"]) == 3.0
    assert waiting.wait_seconds(Backend.SD, 3_000, ["small", "large", "large"]) == 23.0


def test_workers_share_the_wait() -> None:
    assert fleet(worker("small"), worker("large")).wait_seconds(Backend.SD, 3_000, ["small", "large"]) == 1.5


def test_a_model_that_was_never_loaded_adds_nothing() -> None:
    assert fleet(worker()).wait_seconds(Backend.SD, 3_000, ["new"]) == 3.0


def test_a_wait_contains_what_is_left_of_running_jobs() -> None:
    assert fleet(worker(), w=[20_000]).wait_seconds(Backend.SD, 0) == 20.0
    assert fleet(worker(), w=[20_000]).wait_seconds(Backend.SD, 3_000) == 23.0
    # Jobs of a batch end together.
    assert fleet(worker(), w=[20_000, 20_000]).wait_seconds(Backend.SD, 0) == 20.0


def test_a_job_waits_for_the_first_worker_that_is_free() -> None:
    workers = worker(), worker(name="v")

    assert fleet(*workers, w=[20_000]).wait_seconds(Backend.SD, 0) == 0.0
    assert fleet(*workers, w=[20_000], v=[6_000]).wait_seconds(Backend.SD, 0) == 6.0
    # Until then, the second one has done it alone; of more work, the first one does its part.
    assert fleet(*workers, w=[20_000], v=[6_000]).wait_seconds(Backend.SD, 10_000) == 16.0
    assert fleet(*workers, w=[20_000], v=[6_000]).wait_seconds(Backend.SD, 34_000) == 30.0


def test_a_worker_of_several_jobs_starts_the_next_one_when_any_of_them_ends() -> None:
    cloud = worker(concurrency=2)

    assert fleet(cloud, w=[9_000]).wait_seconds(Backend.SD, 0) == 0.0
    assert fleet(cloud, w=[9_000, 4_000]).wait_seconds(Backend.SD, 0) == 4.0
