"""Which queued jobs join a batch."""

from collections.abc import Sequence, Set
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.jobs.admission import QueueLimits
from shared.jobs.job import Job, QueuedJob
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from tests.worker.bench import Bench, wake
from tests.worker.jobs.batches import CountingEngine, run, scene, states, submit_all
from worker.records.recovery import JobRecovery
from worker.records.redis_job_store import RedisJobStore


def test_jobs_that_are_alike_render_in_one_batch(bench: Bench, engine: CountingEngine) -> None:
    hook = {"webhook_url": "https://example.com/hook", "webhook_events": ["started"]}
    jobs = submit_all(bench, {"seed": 1}, {"seed": 2, "prompt": "another"}, {"seed": 3, "label": "mine", **hook})

    run(bench, engine)

    assert (engine.batches, states(bench, jobs)) == ([3], ["succeeded"] * 3)
    assert [bench.read(job).timings.batch_size for job in jobs] == [3, 3, 3]


def test_no_job_of_a_batch_that_hangs_is_blamed_for_it(bench: Bench, engine: CountingEngine) -> None:
    jobs = submit_all(bench, {"seed": 1}, {"seed": 2}, {"seed": 3})
    # Each reading of the clock gives another time.
    bench.now = lambda: datetime.now(UTC) + timedelta(hours=1)
    with bench.runner(engine, max_batch_size=3).claim() as claim:
        assert claim is not None
        assert len(claim.jobs) == 3

    JobRecovery(bench.store, bench.jobs, "bench").recover_from_lost_child(time_limit_seconds=-7200)

    assert [(bench.read(job).state, bench.read(job).losses) for job in jobs] == [("queued", 1)] * 3


def test_a_job_renders_alone_if_the_engine_cannot_tell_its_batch_capacity(bench: Bench, engine: CountingEngine) -> None:
    engine.knows_no_capacity = True
    jobs = submit_all(bench, {"seed": 1}, {"seed": 2})

    run(bench, engine)

    assert (engine.batches, states(bench, jobs)) == ([1], ["succeeded", "queued"])


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"images": [scene(width=96)]},
        {"images": [scene(), scene()]},
        {"images": [scene()], "strength": 0.1},
        {"images": [scene()], "mask": scene()},
    ],
    ids=["no image", "one of another size", "two", "another strength", "a mask"],
)
def test_a_job_with_other_inputs_stays_queued(bench: Bench, engine: CountingEngine, other: dict[str, Any]) -> None:
    jobs = submit_all(bench, {"images": [scene()]}, other)

    run(bench, engine)

    assert states(bench, jobs) == ["succeeded", "queued"]


def test_a_job_that_cannot_be_done_takes_no_capacity(bench: Bench, engine: CountingEngine) -> None:
    late = {"seed": 2, "num_images": 3, "deadline_seconds": 1}
    jobs = submit_all(bench, {"seed": 1}, late, {"seed": 5}, {"seed": 6})
    bench.now = lambda: datetime.now(UTC) + timedelta(hours=1)

    run(bench, engine)

    assert (engine.batches, states(bench, jobs)) == ([3], ["succeeded", "failed", "succeeded", "succeeded"])


def outpaced(bench: Bench, job: Job) -> RedisJobStore:
    """Another worker starts the job just after this one has looked."""

    class Late(RedisJobStore):
        def peek(self, limit: int, loaded: Set[str] | None, tried: Set[str]) -> Sequence[QueuedJob]:
            queued = super().peek(limit, loaded, tried)
            if not tried:
                bench.start(job)
            return queued

    return Late(bench.store, bench.jobs, Backend.NULL)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_job_that_another_worker_starts_first_leaves_the_batch(
    bench: Bench, engine: CountingEngine, taken: int
) -> None:
    jobs = submit_all(bench, {}, {}, {})

    wake(bench.runner(engine, job_store=outpaced(bench, jobs[taken]), max_batch_size=4))

    assert engine.batches == [2]
    assert [bench.read(job).worker for job in jobs] == ["another worker" if n == taken else "bench" for n in range(3)]


def test_inputs_of_a_job_that_another_worker_has_started_are_kept(bench: Bench, engine: CountingEngine) -> None:
    job = bench.submit([scene()], deadline_seconds=1)
    # For this worker, it starts too late.
    bench.now = lambda: datetime.now(UTC) + timedelta(hours=1)

    wake(bench.runner(engine, job_store=outpaced(bench, job)))

    assert states(bench, [job]) == ["running"]
    assert [folder.job_id for folder in bench.inputs.list_folders()] == [job.id]


def test_a_redis_that_lost_its_scripts_gets_them_again(bench: Bench, engine: CountingEngine) -> None:
    jobs = submit_all(bench, {}, {})
    bench.store.client.script_flush()

    run(bench, engine)

    assert (engine.batches, states(bench, jobs)) == ([2], ["succeeded", "succeeded"])


def test_a_single_job_does_not_wait_for_a_batch(bench: Bench, engine: CountingEngine) -> None:
    (job,) = submit_all(bench, {})

    run(bench, engine)

    assert (engine.batches, bench.read(job).timings.batch_size) == ([1], None)


@pytest.mark.parametrize(
    "other",
    [{"width": 128}, {"num_inference_steps": 9}, {"guidance_scale": 2.0}],
    ids=lambda other: next(iter(other)),
)
def test_a_job_that_differs_stays_queued(bench: Bench, engine: CountingEngine, other: dict[str, Any]) -> None:
    jobs = submit_all(bench, {}, other)

    run(bench, engine)

    assert states(bench, jobs) == ["succeeded", "queued"]


def test_an_explicit_default_makes_no_difference(bench: Bench, engine: CountingEngine) -> None:
    submit_all(bench, {}, {"width": 64, "height": 64, "num_inference_steps": 4})

    run(bench, engine)

    assert engine.batches == [2]


def test_a_batch_has_no_more_images_than_allowed(bench: Bench, engine: CountingEngine) -> None:
    jobs = submit_all(bench, {"num_images": 2}, {"num_images": 3}, {}, {}, {})

    run(bench, engine, max_batch_size=4)

    assert states(bench, jobs) == ["succeeded", "queued", "succeeded", "succeeded", "queued"]


def test_jobs_of_a_batch_leave_no_wake_up_behind(bench: Bench, engine: CountingEngine) -> None:
    submit_all(bench, {"priority": "low"}, {}, {"priority": "high"})

    run(bench, engine)

    assert (engine.batches, bench.wake_ups()) == ([3], 0)


def test_a_batch_is_expected_to_take_no_longer_than_the_time_limit(bench: Bench, engine: CountingEngine) -> None:
    for _ in range(4):
        # Known to take 4 s: two of them take less than half of 20 s, three do not.
        bench.store.run(
            bench.jobs.create(
                Job.new(GenerationRequest(prompt="x"), Backend.NULL, datetime.now(UTC)),
                QueueLimits(10, 10),
                expected_ms=4000,
            )
        )

    run(bench, engine, time_limit_seconds=20.0)

    assert engine.batches == [2]


@pytest.mark.parametrize("priority", ["normal", "high"], ids=["first", "second"])
def test_a_job_that_cost_a_worker_renders_alone(bench: Bench, engine: CountingEngine, priority: str) -> None:
    lost, _ = submit_all(bench, {}, {"priority": priority})
    bench.requeue(bench.start(lost))

    run(bench, engine)
    run(bench, engine)

    assert engine.batches == [1, 1]
