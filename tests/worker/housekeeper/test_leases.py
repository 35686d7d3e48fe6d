"""Stranded jobs: expired leases, missed deadlines and lost wake-ups, on real records."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from shared.errors import StoreUnavailable
from shared.jobs.operations import ProgressReply
from shared.redis.store import Store, connect
from shared.settings.housekeeper import HousekeeperSettings
from tests.support.failing_store import FailingStore
from tests.support.polling import wait_until
from tests.worker.housekeeper.conftest import DAY, HousekeeperBench, housekeeping
from worker.housekeeper import app
from worker.housekeeper.leases import Reaper
from worker.records.recovery import JobRecovery


@contextmanager
def unreachable(reaper: Reaper) -> Iterator[None]:
    store, reaper.store = reaper.store, Store(connect("unix:///nowhere"))
    yield
    reaper.store = store


def test_a_job_whose_lease_expired_is_requeued_and_wakes_a_worker(bench: HousekeeperBench) -> None:
    running = bench.start(bench.submit())
    bench.expire_lease(running)

    assert bench.reap() == 1

    job = bench.read(running)
    assert (job.state, job.losses) == ("queued", 1)
    assert bench.wake_ups() == 1
    assert bench.reap() == 0


def test_a_job_that_has_just_started_is_left_alone(bench: HousekeeperBench) -> None:
    bench.start(bench.submit())

    assert bench.reap() == 0


def test_the_job_of_a_worker_that_died_before_the_clock_was_set_back_is_requeued(bench: HousekeeperBench) -> None:
    running = bench.start(bench.submit())
    bench.store.client.zadd(f"{bench.prefix}leases", {running.id: (datetime.now(UTC) + DAY).timestamp() * 1000})

    assert bench.reap() == 1


def test_a_job_whose_lease_is_renewed_is_left_alone(bench: HousekeeperBench) -> None:
    running = bench.start(bench.submit())
    bench.expire_lease(running)
    assert bench.store.run(bench.jobs.report_progress(running)) is ProgressReply.CONTINUE

    assert bench.reap() == 0
    assert bench.read(running) == running


def test_a_lease_that_could_not_be_renewed_for_a_time_is_renewed_before_its_job_counts_as_lost(
    bench: HousekeeperBench,
) -> None:
    """Redis was away, or the machine slept: all leases have expired, and the housekeeper looks first."""
    running, reaper = bench.start(bench.submit()), bench.reaper()
    for _ in range(3):
        bench.expire_lease(running)
        assert reaper.reap() == 0
        assert bench.store.run(bench.jobs.report_progress(running)) is ProgressReply.CONTINUE
        assert reaper.reap() == 0

    assert bench.read(running) == running


def test_a_round_that_could_not_look_proves_no_job_lost(bench: HousekeeperBench) -> None:
    running, reaper = bench.start(bench.submit()), bench.reaper()
    bench.expire_lease(running)
    assert reaper.reap() == 0

    with unreachable(reaper), pytest.raises(StoreUnavailable):
        reaper.reap()

    assert reaper.reap() == 0
    assert reaper.reap() == 1


@pytest.mark.parametrize("is_lost", [True, False], ids=["a lost worker", "a stopping worker"])
def test_a_cancelled_job_does_not_run_again(bench: HousekeeperBench, *, is_lost: bool) -> None:
    running = bench.start(bench.submit())
    bench.store.run(bench.jobs.request_cancel(running.id))

    if is_lost:
        bench.expire_lease(running)
        bench.reap()
    else:
        JobRecovery(bench.store, bench.jobs, worker="another worker").requeue(running.id)

    assert bench.read(running).state == "cancelled"
    assert bench.wake_ups() == 0


def test_a_job_that_cannot_be_requeued_now_is_not_cancelled(bench: HousekeeperBench, redis_url: str) -> None:
    running = bench.start(bench.submit())

    JobRecovery(FailingStore(redis_url, {"jobs/move": StoreUnavailable()}), bench.jobs).requeue_lost(running.id)

    assert bench.read(running) == running


def test_a_worker_that_lost_its_job_cannot_commit_it(bench: HousekeeperBench) -> None:
    stale = bench.start(bench.submit())
    bench.expire_lease(stale)
    bench.reap()
    bench.start(bench.read(stale))

    committed = bench.store.run(bench.jobs.move(stale, stale.cancel(datetime.now(UTC))))

    assert not committed
    assert bench.store.run(bench.jobs.report_progress(stale)) is ProgressReply.LOST


def test_a_job_that_cost_three_workers_fails(bench: HousekeeperBench) -> None:
    job = bench.submit()
    for _ in range(3):
        bench.expire_lease(bench.start(bench.read(job)))
        bench.reap()

    ended = bench.read(job)
    assert ended.error is not None
    assert (ended.state, ended.error.code, ended.attempt) == ("failed", "worker-lost", 3)


def test_a_requeued_job_has_cost_no_worker(bench: HousekeeperBench) -> None:
    running = bench.start(bench.submit())

    JobRecovery(bench.store, bench.jobs, worker="another worker").requeue(running.id)

    assert (bench.read(running).state, bench.read(running).losses) == ("queued", 0)


def test_a_worker_requeues_no_job_of_another_worker(bench: HousekeeperBench) -> None:
    running = bench.start(bench.submit())

    JobRecovery(bench.store, bench.jobs, worker="not it").requeue_lost(running.id)

    assert bench.read(running) == running


def test_a_job_that_no_worker_starts_fails_at_its_deadline(bench: HousekeeperBench) -> None:
    job, other = bench.submit(deadline_seconds=1000), bench.submit(deadline_seconds=1000)
    assert bench.reap() == 0
    bench.store.client.zadd(f"{bench.prefix}deadlines", {job.id: 1}, xx=True)

    assert bench.reap() == 1

    failed = bench.read(job)
    assert failed.error is not None
    assert failed.error.code == "deadline-passed"
    assert bench.read(other) == other


def test_a_job_that_starts_has_met_its_deadline(bench: HousekeeperBench) -> None:
    queued, deadlines = bench.submit(deadline_seconds=1), f"{bench.prefix}deadlines"
    assert bench.store.client.zcard(deadlines) == 1

    running = bench.start(queued)

    assert bench.store.client.zcard(deadlines) == 0
    assert not bench.read(running).is_overdue(datetime.now(UTC) + DAY)


def test_a_lost_wake_up_is_replaced_once(bench: HousekeeperBench) -> None:
    bench.submit()
    bench.store.client.delete(f"{bench.prefix}generate.null")

    bench.reap()
    bench.reap()

    assert bench.wake_ups() == 1


def test_messages_of_versions_that_had_one_per_job_are_deleted(bench: HousekeeperBench) -> None:
    bench.store.client.lpush(f"{bench.prefix}generate.null\x06\x163", "a message")

    bench.reap()

    assert not bench.store.client.exists(f"{bench.prefix}generate.null\x06\x163")


def test_lost_jobs_are_found_although_a_round_failed_for_an_unforeseen_reason(
    bench: HousekeeperBench, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running, reap, errors = bench.start(bench.submit()), Reaper.reap, [ValueError("an answer that nobody expects")]
    bench.expire_lease(running)

    def fail_once(reaper: Reaper) -> int:
        if errors:
            raise errors.pop()
        return reap(reaper)

    monkeypatch.setattr(Reaper, "reap", fail_once)
    monkeypatch.setattr(app, "REAP_SECONDS", 0.01)
    settings = HousekeeperSettings(redis_url=redis_url, redis_prefix=bench.prefix, output_dir=bench.folder)
    with housekeeping(settings):
        wait_until(lambda: bench.read(running).state == "queued")

    assert "a round of leases failed" in caplog.text
