"""How long jobs wait because workers prefer others, whose models they have in memory."""

from tests.shared.conftest import NOW
from tests.shared.redis.conftest import Queue


def test_a_job_that_was_passed_over_for_the_bound_comes_first_however_often_it_was_passed(queue: Queue) -> None:
    first, second, *_ = queue.submit("a", "b", "b")
    assert queue.next("b") == second.id
    queue.age()
    assert queue.next("b", bound_ms=10**13) == second.id

    assert queue.next("b") == first.id


def test_every_job_that_was_passed_over_waits_at_most_for_the_bound(queue: Queue) -> None:
    first, other, third = queue.submit("a", "c", "b")
    assert queue.next("b") == third.id
    queue.age()
    assert queue.next("b") == first.id
    queue.start(first)

    assert queue.next("a", "b") == other.id


def test_jobs_that_cannot_start_hide_no_other_one_that_was_passed_over_for_the_bound(queue: Queue) -> None:
    """Those of a lower priority, and those of a model that only another machine has."""
    queue.submit(*["a"] * 20, "b", priority="low")
    assert queue.next("b") is not None
    queue.age()
    *_, ours, preferred = queue.submit(*["theirs"] * 20, "a", "b")
    assert queue.next("b", tried={"theirs"}) == preferred.id

    queue.age()

    assert queue.next("b", tried={"theirs"}) == ours.id


def test_jobs_of_a_model_keep_their_order_when_one_of_them_was_passed_over_for_the_bound(queue: Queue) -> None:
    first, *_ = queue.submit("a", "a", "b", owner="one")
    queue.next("b")
    queue.start(first)
    queue.age()
    (before_it,) = queue.submit("a", owner="two")

    assert queue.next("b") == before_it.id


def test_nothing_is_kept_of_jobs_that_were_passed_over_and_have_left_the_queue(queue: Queue) -> None:
    started, cancelled, lost, last = queue.submit("a", "a", "a", "b")
    assert queue.next("b") == last.id

    queue.start(started)
    assert queue.records.run(queue.records.jobs.move(cancelled, cancelled.cancel(NOW)))
    queue.client.delete(f"{queue.records.prefix}job:{lost.id}")

    assert queue.next("b") == last.id
    assert queue.client.zrange(f"{queue.records.prefix}queue:null", 0, -1) == [last.id]
    assert not queue.client.exists(queue.passed)


def test_a_new_owner_does_not_come_after_all_jobs_that_were_passed_over(queue: Queue) -> None:
    first, *_ = queue.submit(*"aaaaa", owner="one")
    for job in queue.submit(*"bbbbb", owner="one"):
        queue.start(job)

    (new,) = queue.submit("a", owner="two")

    assert queue.records.order()[:2] == [first.id, new.id]


def test_a_job_that_nobody_can_start_lets_a_new_owner_overtake_for_a_limited_time(queue: Queue) -> None:
    queue.submit("theirs", owner="one")
    for _ in range(60):
        queue.start(*queue.submit("b", owner="two", num_images=8))
    (waiting,) = queue.submit("b", owner="two", num_images=8)

    queue.submit(*["b"] * 40, owner="three", num_images=8)

    assert queue.records.order().index(waiting.id) <= 2 + 200 / 8


def test_of_jobs_that_were_passed_over_for_the_bound_the_first_in_the_queue_starts(queue: Queue) -> None:
    first, *_ = queue.submit("a", "a", "a", "b", owner="one")
    queue.next("b")
    queue.start(first)
    (new,) = queue.submit("c", owner="two")
    queue.next("b")
    queue.age()

    assert queue.next("b") == new.id


def test_a_job_that_was_left_to_others_for_the_bound_is_taken(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    (job,) = queue.submit("a")
    assert queue.next() is None
    queue.age()

    assert queue.next() == job.id
