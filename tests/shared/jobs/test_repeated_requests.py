"""Which job a repeated request gets: in a real Valkey, without an API."""

import itertools

import pytest

from shared.jobs.admission import AdmissionOutcome, IdempotencyKey, OnDuplicate
from shared.jobs.housekeeping import JobHousekeeping
from shared.jobs.job import Job
from tests.shared.conftest import NOW, ROOM, Records, new_job
from tests.shared.jobs.test_moves import ended

LIFETIME_MS = 60_000
KEYED, NUMBERED, UNSURE = (
    IdempotencyKey(on_duplicate, "hash", on_duplicate, LIFETIME_MS)
    for on_duplicate in (OnDuplicate.RETURN, OnDuplicate.RETURN_UNLESS_FAILED, OnDuplicate.RETURN_UNCONFIRMED)
)
#: When a caller stopped waiting.
LONG_AGO = 1


def accepted(records: Records, key: IdempotencyKey, answer_by_ms: int | None = None) -> Job:
    """A new job. One of UNSURE whose caller has stopped waiting is unconfirmed."""
    job = new_job()
    assert records.run(records.jobs.create(job, ROOM, key, answer_by_ms=answer_by_ms)).outcome == "created"
    return job


def repeated(records: Records, key: IdempotencyKey, answer_by_ms: int | None = None) -> str | None:
    """The id of the earlier job that a repeated request gets; None if it creates another."""
    admission = records.run(records.jobs.create(new_job(), ROOM, key, answer_by_ms=answer_by_ms))
    return admission.job_id if admission.outcome is AdmissionOutcome.DUPLICATE else None


def end(records: Records, job: Job, state: str) -> None:
    running = job.start("null", "worker", NOW)
    assert records.run(records.jobs.move(job, running))
    assert records.run(records.jobs.move(running, ended(running, state)))


@pytest.mark.parametrize(("key", "state"), list(itertools.product((NUMBERED, UNSURE), ("failed", "cancelled"))))
def test_a_job_that_made_no_image_is_not_returned_to_a_retry(records: Records, key: IdempotencyKey, state: str) -> None:
    end(records, accepted(records, key, LONG_AGO), state)

    assert repeated(records, key) is None


@pytest.mark.parametrize("key", [KEYED, NUMBERED, UNSURE])
def test_a_job_that_was_deleted_is_not_returned(records: Records, key: IdempotencyKey) -> None:
    job = accepted(records, key, LONG_AGO)
    end(records, job, "succeeded")
    assert records.run(JobHousekeeping(records.prefix).delete_job(job.id))

    assert repeated(records, key) is None


def test_a_second_retry_of_an_unconfirmed_request_gets_the_same_job(records: Records) -> None:
    first, again = accepted(records, UNSURE, LONG_AGO), new_job()

    answers = [records.run(records.jobs.create(again, ROOM, UNSURE)) for _ in range(2)]

    assert [(answer.outcome, answer.job_id) for answer in answers] == [("duplicate", first.id)] * 2
    assert records.order() == [first.id]


def test_a_retry_that_got_no_answer_either_leaves_the_job_to_the_next(records: Records) -> None:
    job = accepted(records, UNSURE, LONG_AGO)

    assert [repeated(records, UNSURE, LONG_AGO), repeated(records, UNSURE), repeated(records, UNSURE)] == [
        job.id,
        job.id,
        None,
    ]


def test_of_several_unconfirmed_jobs_a_retry_gets_one_that_may_succeed(records: Records) -> None:
    cancelled, queued = records.accepted_many(2)
    for job in (cancelled, queued):
        records.run(records.jobs.mark_unconfirmed(UNSURE, job.id))
    assert records.run(records.jobs.move(cancelled, cancelled.cancel(NOW)))

    assert repeated(records, UNSURE) == queued.id


def test_cancelled_jobs_are_read_by_one_retry_only(records: Records) -> None:
    cancelled = records.accepted_many(3)
    for job in cancelled:
        records.run(records.jobs.mark_unconfirmed(UNSURE, job.id))
        assert records.run(records.jobs.move(job, job.cancel(NOW)))

    assert repeated(records, UNSURE) is None

    assert list(records.store.client.scan_iter(f"{records.prefix}repeat:*")) == []


@pytest.mark.parametrize("key", [KEYED, NUMBERED, UNSURE])
def test_what_is_known_of_a_request_expires(records: Records, key: IdempotencyKey) -> None:
    job = accepted(records, key, LONG_AGO)
    assert repeated(records, key, LONG_AGO) == job.id

    client = records.store.client
    lifetimes = [client.pttl(name) for name in client.scan_iter(f"{records.prefix}repeat:*")]
    assert len(lifetimes) >= 1
    assert all(LIFETIME_MS - 5000 < lifetime <= LIFETIME_MS for lifetime in lifetimes)


def test_a_job_that_was_not_accepted_is_not_marked(records: Records) -> None:
    records.run(records.jobs.mark_unconfirmed(UNSURE, "unknown"))

    assert list(records.store.client.scan_iter(f"{records.prefix}*")) == []
