"""The queue of a backend: priorities, turns of owners, wake-ups."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from shared.jobs.job import Job
from shared.jobs.types import Backend
from shared.redis.store import Operation
from tests.shared.conftest import NOW, ROOM, Records, new_job


def start_next(records: Records) -> Job:
    queued: Job = records.run(records.jobs.peek_queue(Backend.NULL, 1))[0].job
    running = queued.start("null", "worker", NOW)
    assert records.run(records.jobs.move(queued, running))
    return running


def owners(jobs: Iterable[Job]) -> str:
    return "".join(job.owner for job in jobs)


def started(records: Records, count: int) -> Sequence[Job]:
    return [start_next(records) for _ in range(count)]


def test_jobs_of_one_owner_start_in_order(records: Records) -> None:
    ids = [records.accepted().id for _ in range(20)]

    assert records.order() == ids


def test_an_owner_with_many_jobs_does_not_delay_another(records: Records) -> None:
    for _ in range(50):
        records.accepted(owner="a")
    assert owners(started(records, 5)) == "aaaaa"
    for _ in range(3):
        records.accepted(owner="b")

    assert owners(started(records, 8)) == "bababaaa"


def test_owners_share_by_images_not_by_jobs(records: Records) -> None:
    for _ in range(10):
        records.accepted(owner="a", num_images=4)
    for _ in range(40):
        records.accepted(owner="b")

    jobs = started(records, 25)

    images = {owner: sum(job.request.num_images for job in jobs if job.owner == owner) for owner in "ab"}
    assert abs(images["a"] - images["b"]) <= 4


def test_an_owner_without_recent_jobs_gets_only_one_turn(records: Records) -> None:
    records.accepted(owner="b")
    for _ in range(30):
        records.accepted(owner="a")
    lost, *_ = started(records, 21)
    # Its turn was long ago.
    assert records.run(records.jobs.move(lost, lost.requeue(lost=True)))
    started(records, 1)
    for _ in range(10):
        records.accepted(owner="b")

    assert owners(started(records, 10)).count("b") in {5, 6}


def test_withdrawn_jobs_do_not_count_against_their_owner(records: Records) -> None:
    withdrawn = [records.accepted(owner="a") for _ in range(50)]
    for _ in range(10):
        records.accepted(owner="b")
    for job in withdrawn:
        assert records.run(records.jobs.move(job, job.cancel(NOW)))
    records.accepted(owner="a")

    assert "a" in owners(started(records, 2))


def test_jobs_behind_a_withdrawn_one_of_their_owner_move_up(records: Records) -> None:
    withdrawn, *_ = records.accepted_many(4, "a")
    records.accepted_many(3, "b", priority="high")
    records.accepted_many(3, "b")

    assert records.run(records.jobs.move(withdrawn, withdrawn.cancel(NOW)))

    assert owners(started(records, 9)) == "bbbababab"


def test_a_withdrawn_job_moves_none_before_it_and_none_of_another_priority(records: Records) -> None:
    for owner in "ba":
        records.accepted(owner, priority="low")
    _, withdrawn, _ = records.accepted_many(3, "a")
    records.accepted_many(3, "b")
    records.accepted("a", priority="high")

    assert records.run(records.jobs.move(withdrawn, withdrawn.cancel(NOW)))

    assert owners(started(records, 8)) == "a" + "ababb" + "ba"


def test_no_later_job_of_an_owner_starts_before_an_earlier_one_after_others_were_withdrawn(records: Records) -> None:
    *withdrawn, third = records.accepted_many(3, "a")
    for job in withdrawn:
        assert records.run(records.jobs.move(job, job.cancel(NOW)))

    later = records.accepted("a")

    assert records.order() == [third.id, later.id]


def test_an_owner_that_replaces_its_jobs_gets_one_turn_at_a_time(records: Records) -> None:
    jobs = records.accepted_many(5, "a")
    for _ in range(5):
        withdrawn = jobs.pop(0)
        assert records.run(records.jobs.move(withdrawn, withdrawn.cancel(NOW)))
        jobs.append(records.accepted("a"))
    started(records, 1)
    records.accepted("b")

    assert "b" in owners(started(records, 2))


def test_a_higher_priority_starts_first_whoever_the_owner(records: Records) -> None:
    normal, low = records.accepted(owner="a"), records.accepted(owner="b", priority="low")
    high = records.accepted(owner="c", priority="high")

    assert records.order() == [high.id, normal.id, low.id]


def test_a_requeued_job_returns_to_the_head(records: Records) -> None:
    for owner in "aabb":
        records.accepted(owner=owner)
    running = start_next(records)
    assert records.run(records.jobs.move(running, running.requeue(lost=True)))

    assert records.order()[0] == running.id


def test_jobs_in_the_queue_of_the_version_before_keep_their_positions(records: Records) -> None:
    client, former, current = records.store.client, f"{records.prefix}line:null", f"{records.prefix}queue:null"
    jobs = [records.accepted().id for _ in range(4)]
    for job_id in jobs[::2]:
        score = client.zscore(current, job_id)
        assert score is not None
        client.zadd(former, {job_id: score})
        client.zrem(current, job_id)
    client.delete(f"{records.prefix}generate.null")

    assert records.run(records.jobs.repair_queue(Backend.NULL)) == 4

    assert records.order() == jobs
    assert not client.exists(former)
    assert start_next(records).id == jobs[0]


def test_jobs_that_version_0_1_queued_start_first(records: Records) -> None:
    old = records.accepted()
    # It stored the priority alone.
    records.store.client.zadd(f"{records.prefix}queue:null", {old.id: 1})
    for _ in range(3):
        records.accepted()

    assert records.order()[0] == old.id
    assert start_next(records).id == old.id


def test_each_queued_job_has_a_wake_up_up_to_a_limit(records: Records) -> None:
    for number in range(1, 4):
        records.accepted()
        assert records.wake_ups() == number
    for _ in range(90):
        records.accepted()

    assert records.wake_ups() == 32


def test_withdrawn_jobs_leave_no_wake_ups(records: Records) -> None:
    for _ in range(60):
        job = records.accepted()
        assert records.run(records.jobs.move(job, job.cancel(NOW)))

    assert records.wake_ups() == 0


def test_each_start_keeps_a_wake_up_for_the_next_job(records: Records) -> None:
    for _ in range(40):
        records.accepted()
    for left in reversed(range(40)):
        # A worker takes a wake-up and starts a job.
        records.store.client.rpop(f"{records.prefix}generate.null")
        start_next(records)
        assert records.wake_ups() == min(left, 32)


def test_creating_a_job_twice_queues_it_once(records: Records) -> None:
    job = records.accepted(owner="a")

    again = records.run(records.jobs.create(job, ROOM))

    assert (again.outcome, again.job_id) == ("created", job.id)
    assert (records.order(), records.wake_ups()) == ([job.id], 1)


def test_a_job_that_started_before_its_creation_was_repeated_has_no_position(records: Records) -> None:
    job = records.accepted()
    start_next(records)

    again = records.run(records.jobs.create(job, ROOM))

    assert again.accepted is not None
    assert again.accepted.queue_position is None


@pytest.mark.parametrize("kinds", [10, 300])
def test_duration_stats_are_bounded_and_not_forgotten_at_once(records: Records, kinds: int) -> None:
    steps: list[Operation[Any]] = []
    for number in range(kinds):
        queued = new_job(width=64 + number)
        running = queued.start("null", "worker", NOW)
        ended = running.succeed((), running.timings, NOW + timedelta(seconds=1))
        steps += [
            records.jobs.create(queued, ROOM),
            records.jobs.move(queued, running),
            records.jobs.move(running, ended),
        ]
    assert all(records.store.run_all(steps))

    stats = records.store.client.hgetall(f"{records.prefix}pace:null")
    assert len(stats) == min(kinds + 1, 256)
    assert stats["*"] == "1000"


def read_calls(records: Records) -> int:
    stats = records.store.client.info("commandstats")
    return int(stats.get("cmdstat_hmget", {"calls": 0})["calls"])


@pytest.mark.parametrize("ahead", [5, 500])
def test_the_work_ahead_is_estimated_from_few_jobs_however_long_the_queue(records: Records, ahead: int) -> None:
    records.store.run_all([records.jobs.create(new_job(), ROOM, expected_ms=1000) for _ in range(ahead)])
    before = read_calls(records)

    admission = records.run(records.jobs.create(new_job(), ROOM, expected_ms=1000))

    assert admission.accepted is not None
    assert (admission.accepted.queue_position, admission.accepted.work_ahead_ms) == (ahead, ahead * 1000)
    # Processes of other tests read a little, too.
    assert read_calls(records) - before <= 100
