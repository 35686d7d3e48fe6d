"""What is counted with the moves of jobs, in a real Valkey."""

from datetime import timedelta
from typing import Any

import pytest

from shared.errors import OutOfMemory
from shared.jobs.admission import AdmissionOutcome, QueueLimits
from shared.jobs.job import Image, Job, JobError, Timings
from shared.jobs.states import State
from shared.jobs.types import Backend, Priority
from shared.observability.counters import (
    ACCEPTED,
    ENCODE,
    ENDED,
    IMAGES,
    REQUEUED,
    REUSED,
    RUN,
    SENT,
    STEP,
    WAIT,
    Counts,
    Distribution,
    Histogram,
    count_attempt,
)
from shared.observability.gauges import Gauges, read_gauges
from shared.webhooks.deliveries import DeliveryState
from tests.shared.conftest import NOW, Records

LATER = NOW + timedelta(seconds=3)
TIMES = Timings(generate_ms=2900, encode_ms=30, step_ms=140.5)


def told(records: Records) -> Gauges:
    answer: Gauges = records.run(read_gauges(records.prefix))
    return answer


def distribution(records: Records, histogram: Histogram) -> Distribution:
    return told(records).counts.distribution(histogram, Backend.NULL)


def moved(records: Records, old: Job, new: Job) -> Job:
    assert records.run(records.jobs.move(old, new))
    return new


def image(index: int, *, flagged: bool = False) -> Image:
    fields: dict[str, Any] = {"bytes": None, "sha256": None} if flagged else {"bytes": 1, "sha256": "0"}
    return Image(index=index, media_type="image/png", width=64, height=64, seed=1, flagged=flagged, **fields)


def test_a_job_is_counted_when_it_comes_and_when_it_ends(records: Records) -> None:
    for end in (
        lambda job: job.succeed((), Timings(), LATER),
        lambda job: job.fail(JobError.from_error(OutOfMemory()), LATER),
    ):
        running = records.started()
        moved(records, running, end(running))
    queued = records.accepted()
    moved(records, queued, queued.cancel(LATER))

    counts = told(records).counts

    assert counts.of(ACCEPTED) == {("null",): 3}
    assert counts.of(ENDED) == {
        ("null", "succeeded", ""): 1,
        ("null", "failed", "out-of-memory"): 1,
        ("null", "cancelled", ""): 1,
    }


def test_what_did_not_happen_is_not_counted(records: Records) -> None:
    running = records.started()
    moved(records, running, running.succeed((), Timings(), LATER))
    assert not records.run(records.jobs.move(running, running.fail(JobError.from_error(OutOfMemory()), LATER)))
    refused = running.model_copy(update={"id": "second", "state": State.QUEUED})
    assert records.run(records.jobs.create(refused, QueueLimits(0, 0))).outcome is AdmissionOutcome.QUEUE_FULL

    counts = told(records).counts

    assert counts.of(ACCEPTED) == {("null",): 1}
    assert counts.of(ENDED) == {("null", "succeeded", ""): 1}


def test_a_job_that_succeeds_tells_how_long_everything_took(records: Records) -> None:
    queued = records.accepted()
    running = moved(records, queued, queued.start("null", "worker", NOW + timedelta(milliseconds=40)))
    end = NOW + timedelta(milliseconds=3040)
    moved(records, running, running.succeed((image(0), image(1, flagged=True)), TIMES, end))

    assert distribution(records, WAIT).sum_seconds == pytest.approx(0.04)
    assert distribution(records, RUN).sum_seconds == pytest.approx(3)
    assert distribution(records, ENCODE).sum_seconds == pytest.approx(0.03)
    assert distribution(records, STEP).sum_seconds == pytest.approx(0.1405)
    assert [count for bound, count in distribution(records, STEP).below if bound in (0.1, 0.25)] == [0, 1]
    assert told(records).counts.of(IMAGES) == {("null", "false"): 1, ("null", "true"): 1}


def test_only_the_first_start_ends_the_wait_and_every_return_says_why(records: Records) -> None:
    job = records.started()
    job = moved(records, job, job.requeue(lost=True))
    job = moved(records, job, job.start("null", "worker", LATER))
    moved(records, job, job.requeue())

    assert distribution(records, WAIT).below[-1][1] == 1
    assert told(records).counts.of(REQUEUED) == {("null", "lost"): 1, ("null", "handed-back"): 1}


def test_images_that_were_found_finished_tell_no_time(records: Records) -> None:
    running = records.started()
    moved(records, running, running.succeed((image(0),), Timings(), LATER))

    assert distribution(records, RUN).below[-1][1] == 0
    assert told(records).counts.of(IMAGES) == {("null", "false"): 1}


def test_images_that_are_given_again_are_not_counted_again(records: Records) -> None:
    running = records.started()
    moved(records, running, running.succeed((image(0),), Timings(), LATER, reused_from="another"))

    counts = told(records).counts

    assert counts.of(REUSED) == counts.of(ACCEPTED) == {("null",): 1}
    assert not counts.of(IMAGES)


def test_who_waits_longest_is_found_whatever_its_priority(records: Records) -> None:
    first = records.accepted(priority=Priority.LOW)
    records.accepted(priority=Priority.HIGH)
    records.started()

    seen = told(records)

    assert abs(seen.waiting_since[Backend.NULL].timestamp() * 1000 - (int(first.id.replace("-", ""), 16) >> 80)) < 1
    assert seen.running == {Backend.SD: 0, Backend.FLUX_LOCAL: 0, Backend.FLUX_API: 0, Backend.NULL: 1}
    assert set(seen.waiting_since) == {Backend.NULL}


def test_every_way_in_which_an_attempt_can_end_is_told_before_it_occurs() -> None:
    assert {count_attempt(state) for state in DeliveryState} == {SENT.add(*values) for values in SENT.expected}


def test_buckets_may_change_without_losing_what_was_counted() -> None:
    before = Histogram("x", "", (0.1, 1))
    counted = Counts(dict([*before.of(Backend.SD, 50), *before.of(Backend.SD, 5000)]))

    after = counted.distribution(Histogram("x", "", (0.05, 0.2)), Backend.SD)

    assert after.below == ((0.05, 0), (0.2, 1), (float("inf"), 2))


def test_a_flood_of_jobs_keeps_no_more_than_there_are_kinds_of_ends(records: Records) -> None:
    for number in range(50):
        queued = records.accepted(label=f"label {number}")
        running = moved(records, queued, queued.start(f"model {number}", f"worker {number}", NOW))
        moved(records, running, running.succeed((image(0),), TIMES, LATER))

    assert records.store.client.hlen(f"{records.prefix}counts") == len(
        ["accepted", "ended", "images", *["bucket", "sum"] * 4]
    )
