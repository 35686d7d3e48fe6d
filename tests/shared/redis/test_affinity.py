"""Which queued job suits a worker, by the models in its memory."""

import itertools

import pytest

from shared.jobs.types import Backend
from tests.shared.redis.conftest import Queue


def test_a_worker_prefers_the_first_job_of_a_model_that_it_has(queue: Queue) -> None:
    _, second, _, fourth = queue.submit("a", "b", "a", "b")

    head = queue.head("b")

    assert [queued.job.id for queued in head.jobs] == [second.id, fourth.id]


def test_jobs_without_a_model_are_for_the_default_one(queue: Queue) -> None:
    _, named, unnamed = queue.submit("a", "default", "")

    assert [queued.job.id for queued in queue.head("default", "").jobs] == [named.id, unnamed.id]


def test_priorities_come_first(queue: Queue) -> None:
    queue.submit("b")
    (urgent,) = queue.submit("a", priority="high")

    assert queue.next("b") == urgent.id


def test_without_a_bound_the_order_of_the_queue_is_kept(queue: Queue) -> None:
    first, _ = queue.submit("a", "b")

    assert queue.next("b", bound_ms=0) == first.id


def test_a_worker_without_models_takes_one_that_no_other_has(queue: Queue) -> None:
    queue.heartbeat("other", "a")
    _, second = queue.submit("a", "b")

    assert queue.next() == second.id


def test_two_workers_do_not_load_the_same_model_for_the_same_job(queue: Queue) -> None:
    first, second = queue.submit("a", "b")

    assert queue.next(worker="one") == first.id
    assert queue.next(worker="two") == second.id


def test_a_worker_that_was_to_load_a_model_may_still_do_so(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    (job,) = queue.submit("a")

    assert [queue.next(), queue.next()] == [job.id, job.id]


def test_a_job_of_lower_priority_starts_while_those_before_it_are_left_to_others(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    queue.submit("a", priority="high")
    (job,) = queue.submit("b")

    assert queue.next("b") == job.id


def test_a_job_is_left_to_the_worker_that_is_loading_its_model(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    queue.submit("a")

    head = queue.head()

    assert (head.jobs, head.is_left_to_others) == ((), True)


@pytest.mark.parametrize("expected_ms", [1000, 0], ids=["known", "unknown"])
def test_a_long_queue_of_one_model_is_worth_another_load(queue: Queue, expected_ms: int) -> None:
    queue.loading_takes("a", 5_000)
    queue.heartbeat("other", "a")
    first, *_ = queue.submit(*["a"] * 6, expected_ms=expected_ms)
    assert queue.next("a", worker="other") == first.id

    assert queue.next() == first.id


def test_a_worker_that_is_silent_does_not_count(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    (job,) = queue.submit("a")
    key = f"{queue.records.prefix}residency"
    queue.client.hset(key, "other", '{"at":1,"backend":"null","loaded":[],"loading":"a"}')

    assert queue.next() == job.id
    assert queue.client.hget(key, "other") is None


def test_workers_of_other_backends_do_not_count(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a", backend=Backend.SD)
    (job,) = queue.submit("a")

    assert queue.next() == job.id


def test_jobs_that_this_worker_tried_are_left_out(queue: Queue) -> None:
    first, second = queue.submit("a", "a")

    assert queue.next("a", tried=[first.id]) == second.id


def test_any_number_of_jobs_of_another_machine_hides_none_of_this_one(queue: Queue) -> None:
    queue.submit(*["theirs"] * 300)
    ours, _ = queue.submit("ours", "ours")

    assert queue.next("ours", tried={"theirs"}) == ours.id


def test_a_worker_that_leaves_all_jobs_to_others_is_not_expected_to_load_a_model(queue: Queue) -> None:
    for model in "ab":
        queue.loading_takes(model, 30_000)
    (taken,) = queue.submit("a")
    assert queue.next(worker="one") == taken.id
    queue.start(taken)
    queue.heartbeat("other", loading="b")
    queue.submit("b")
    assert queue.next(worker="one") is None

    (job,) = queue.submit("a")

    assert queue.next(worker="two") == job.id


def test_a_long_queue_is_read_only_as_far_as_needed(queue: Queue) -> None:
    queue.submit(*["a"] * 300, "b")

    # The job of b is too far behind to be found; the head of the queue is taken.
    assert queue.next("b") is not None


def test_two_workers_settle_on_a_model_each(queue: Queue) -> None:
    """A queue of two models in any order, and two workers with room for one model each."""
    queue.loading_takes("a", 20_000)
    queue.loading_takes("b", 20_000)
    jobs = {job.id: job for job in queue.submit(*itertools.islice(itertools.cycle("aabbab"), 60))}
    loaded, loads = {"one": "", "two": ""}, {"one": 0, "two": 0}

    while jobs:
        for worker in loaded:
            job_id = queue.next(loaded[worker], worker=worker)
            if job_id is None:
                continue
            job = jobs.pop(job_id)
            model = job.request.model or ""
            loads[worker] += model != loaded[worker]
            loaded[worker] = model
            queue.heartbeat(worker, model)
            queue.start(job)

    # The one that is done first may help the other one in the end.
    assert sorted(loads.values()) in ([1, 1], [1, 2])
