"""Moves of job records: each is one compare-and-set in a real Valkey."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from shared.errors import OutOfMemory
from shared.jobs.admission import AdmissionOutcome, QueueLimits
from shared.jobs.job import Job, JobError, Progress, Timings
from shared.jobs.operations import EVENTS_LIFETIME_MS, MAX_EVENTS, ProgressReply
from shared.jobs.snapshots import JobFilter
from shared.jobs.states import State
from shared.jobs.types import Backend
from tests.shared.conftest import NOW, Records

ERROR = JobError.from_error(OutOfMemory())
STEP = Progress(step=1, steps=4, fraction=0.25)


def ended(job: Job, state: str) -> Job:
    match state:
        case "succeeded":
            return job.succeed((), Timings(), NOW)
        case "failed":
            return job.fail(ERROR, NOW)
        case _:
            return job.cancel(NOW)


def test_only_one_of_fifty_workers_starts_a_job(records: Records) -> None:
    job = records.accepted()
    together = threading.Barrier(50)

    def start(number: int) -> bool:
        together.wait()
        return bool(records.run(records.jobs.move(job, job.start(f"model {number}", "worker", NOW))))

    with ThreadPoolExecutor(50) as workers:
        won = list(workers.map(start, range(50)))

    assert won.count(True) == 1
    assert records.read(job) == job.start(f"model {won.index(True)}", "worker", NOW)


def test_a_stale_attempt_can_neither_move_nor_report_on_a_job(records: Records) -> None:
    stale = records.started()
    requeued = stale.requeue()
    assert records.run(records.jobs.move(stale, requeued))
    assert records.run(records.jobs.report_progress(stale, STEP)) is ProgressReply.LOST

    current = requeued.start("null", "worker", NOW)
    assert records.run(records.jobs.move(requeued, current))

    assert not records.run(records.jobs.move(stale, ended(stale, "succeeded")))
    assert records.run(records.jobs.report_progress(stale, STEP)) is ProgressReply.LOST
    assert records.run(records.jobs.report_progress(current, STEP)) is ProgressReply.CONTINUE
    assert records.read(stale) == current


@pytest.mark.parametrize(("first", "second"), list(product(("succeeded", "failed", "cancelled"), repeat=2)))
def test_a_finished_job_never_changes(records: Records, first: str, second: str) -> None:
    job = records.started()
    assert records.run(records.jobs.move(job, ended(job, first)))

    assert not records.run(records.jobs.move(job, ended(job, second)))
    assert not records.run(records.jobs.move(job, job.requeue()))
    assert records.run(records.jobs.report_progress(job, STEP)) is ProgressReply.LOST
    assert records.run(records.jobs.request_cancel(job.id)) == first
    assert records.read(job) == ended(job, first)


def test_an_unknown_job_cannot_be_moved(records: Records) -> None:
    job = records.accepted().model_copy(update={"id": "unknown"})

    assert not records.run(records.jobs.move(job, job.start("null", "worker", NOW)))
    assert records.run(records.jobs.read("unknown")) is None
    assert records.run(records.jobs.request_cancel("unknown")) is None


def test_a_requeued_job_is_next_and_wakes_a_worker(records: Records) -> None:
    job = records.started()
    later = records.accepted()
    records.run(records.jobs.report_progress(job, STEP))

    assert records.run(records.jobs.move(job, job.requeue()))

    snapshot = records.snapshot(job)
    assert (snapshot.job, snapshot.progress, snapshot.queue_position) == (job.requeue(), None, 0)
    assert records.snapshot(later).queue_position == 1
    assert records.wake_ups() == 2


def test_a_worker_learns_of_a_cancel_with_its_next_report(records: Records) -> None:
    job = records.started()
    assert records.run(records.jobs.report_progress(job, STEP)) is ProgressReply.CONTINUE

    assert records.run(records.jobs.request_cancel(job.id)) is State.RUNNING

    assert records.run(records.jobs.report_progress(job)) is ProgressReply.CANCEL


def test_cancelling_a_queued_job_sets_no_flag_that_stops_it_later(records: Records) -> None:
    job = records.accepted()

    assert records.run(records.jobs.request_cancel(job.id)) is State.QUEUED

    running = job.start("null", "worker", NOW)
    assert records.run(records.jobs.move(job, running))
    assert records.run(records.jobs.report_progress(running)) is ProgressReply.CONTINUE


def test_a_job_beyond_the_queue_limit_is_not_stored(records: Records) -> None:
    first = records.accepted()
    job = first.model_copy(update={"id": "second"})

    admission = records.run(records.jobs.create(job, QueueLimits(1, 1)))

    assert admission.outcome is AdmissionOutcome.QUEUE_FULL
    assert records.run(records.jobs.read("second")) is None
    assert (records.order(), records.wake_ups()) == ([first.id], 1)
    assert records.run(records.jobs.list_page(JobFilter(), 10, None)).jobs[0].job == first


def test_a_running_job_does_not_count_against_the_queue_limit(records: Records) -> None:
    job = records.started().model_copy(update={"id": "second", "state": State.QUEUED})

    assert records.run(records.jobs.create(job, QueueLimits(1, 1))).outcome is AdmissionOutcome.CREATED


def test_events_of_a_job_are_bounded_and_expire_after_its_end(records: Records) -> None:
    job = records.started()
    records.store.run_all([records.jobs.report_progress(job, STEP)] * (MAX_EVENTS + 300))
    stored = len(records.run(records.jobs.read_events(job.id)))

    records.run(records.jobs.move(job, ended(job, "succeeded")))

    assert MAX_EVENTS <= stored < MAX_EVENTS + 200
    assert records.run(records.jobs.read_events(job.id))[-1].data == "succeeded"
    lifetime = records.store.client.pttl(f"{records.prefix}events:{job.id}")
    assert EVENTS_LIFETIME_MS - 5000 < lifetime <= EVENTS_LIFETIME_MS


def test_a_list_without_matches_stops_early_and_returns_a_cursor(records: Records) -> None:
    jobs = records.accepted_many(250, label="long")
    records.started_many(251)
    wanted = JobFilter(state=State.RUNNING, label="long")

    page = records.run(records.jobs.list_page(wanted, 2, None))
    rest = records.run(records.jobs.list_page(wanted, 2, page.cursor))

    assert (page.jobs, page.cursor) == ((), jobs[50].id)
    assert (rest.jobs, rest.cursor) == ((), None)


def test_a_list_finds_few_matches_among_many_jobs(records: Records) -> None:
    running = records.started(label="mine")
    records.accepted_many(300, label="mine")

    for wanted in (JobFilter(state=State.RUNNING, label="mine"), JobFilter(state=State.RUNNING, backend=Backend.NULL)):
        page = records.run(records.jobs.list_page(wanted, 1, None))
        assert [snapshot.job.id for snapshot in page.jobs] == [running.id]


def test_a_list_leaves_out_jobs_whose_record_was_lost(records: Records) -> None:
    lost, job = records.accepted_many(2)
    records.store.client.delete(f"{records.prefix}job:{lost.id}")

    page = records.run(records.jobs.list_page(JobFilter(), 10, None))

    assert [snapshot.job.id for snapshot in page.jobs] == [job.id]


def test_a_cursor_never_names_a_job_of_another_owner(records: Records) -> None:
    records.accepted_many(250, owner="alice")
    records.started_many(251, owner="bob")
    wanted = JobFilter(state=State.QUEUED, owner="bob")

    page = records.run(records.jobs.list_page(wanted, 2, None))
    cursor = page.cursor
    assert cursor is not None
    found = records.run(records.jobs.read(cursor))
    while page.cursor is not None:
        page = records.run(records.jobs.list_page(wanted, 2, page.cursor))

    assert (page.jobs, found) == ((), None)
