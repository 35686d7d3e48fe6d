"""Which queued job suits a worker, by the models in its memory: in a real Valkey."""

import itertools
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.jobs.admission import QueueLimits
from shared.jobs.job import Job, ModelLoad, QueueHead
from shared.jobs.operations import ModelAffinity
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.workers.models import ModelRecords
from shared.workers.records import ModelInMemory, WorkerRecord, Workers, WorkerState
from tests.shared.conftest import NOW, Records
from tests.support.polling import wait_until

BOUND_MS = 20_000


class Queue:
    """The queue of one backend, as workers see it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.names: dict[str, str] = {}

    def submit(self, *models: str, expected_ms: int = 1000, owner: str = "", **fields: Any) -> list[Job]:
        jobs = []
        for model in models:
            request = GenerationRequest(prompt="x", model=model or None, **fields)
            job = Job.new(request, Backend.NULL, datetime.now(UTC), owner)
            self.records.run(self.records.jobs.create(job, QueueLimits(1000, 1000), expected_ms=expected_ms))
            jobs.append(job)
        return jobs

    def head(
        self, *loaded: str, worker: str = "w", bound_ms: int = BOUND_MS, limit: int = 16, tried: Collection[str] = ()
    ) -> QueueHead:
        affinity = ModelAffinity(worker, loaded, "default", bound_ms)
        head: QueueHead = self.records.run(self.records.jobs.next_in_queue(Backend.NULL, limit, affinity, tried))
        return head

    def next(self, *loaded: str, **options: Any) -> str | None:
        """The id of the job that a worker starts next."""
        head = self.head(*loaded, **options)
        return head.jobs[0].job.id if head.jobs else None

    def start(self, job: Job) -> None:
        assert self.records.run(self.records.jobs.move(job, job.start("x", "w", NOW)))

    def heartbeat(self, worker: str, *loaded: str, loading: str = "", backend: Backend = Backend.NULL) -> None:
        record = WorkerRecord(
            id=worker,
            name=worker,
            backend=backend,
            state=WorkerState.READY,
            model="default",
            started_at=NOW,
            models=tuple(ModelInMemory(name=name, bytes=1, on_device=True) for name in loaded),
            loading=ModelLoad(model=loading, bytes_done=0, bytes_total=1) if loading else None,
        )
        self.records.run(Workers(self.records.prefix).heartbeat(record))

    def loading_takes(self, model: str, milliseconds: int) -> None:
        self.records.run(ModelRecords(self.records.prefix).record_load(Backend.NULL, model, milliseconds, 1))


@pytest.fixture
def queue(records: Records) -> Queue:
    return Queue(records)


def test_a_worker_prefers_the_first_job_of_a_model_that_it_has(queue: Queue) -> None:
    _, second, third = queue.submit("a", "b", "b")

    head = queue.head("b")

    assert [queued.job.id for queued in head.jobs] == [second.id, third.id]


def test_jobs_without_a_model_are_for_the_default_one(queue: Queue) -> None:
    _, named, unnamed = queue.submit("a", "default", "")

    assert [queued.job.id for queued in queue.head("default", "").jobs] == [named.id, unnamed.id]


def test_a_job_that_was_passed_over_for_the_bound_comes_first(queue: Queue) -> None:
    first, second, *_ = queue.submit("a", "b", "b")

    assert queue.next("b", bound_ms=50) == second.id
    wait_until(lambda: queue.next("b", bound_ms=50) == first.id)


def test_every_job_that_was_passed_over_waits_at_most_for_the_bound(queue: Queue) -> None:
    first, other, third = queue.submit("a", "c", "b")
    assert queue.next("b", bound_ms=50) == third.id
    wait_until(lambda: queue.next("b", bound_ms=50) == first.id)
    queue.start(first)

    assert queue.next("a", "b", bound_ms=50) == other.id


def test_jobs_that_cannot_start_hide_no_other_one_that_was_passed_over_for_the_bound(queue: Queue) -> None:
    """Those of a lower priority, and those of a model that only another machine has."""
    queue.submit(*["a"] * 20, "b", priority="low")
    assert queue.next("b", bound_ms=50) is not None
    *_, ours, _ = queue.submit(*["theirs"] * 20, "a", "b")
    assert queue.next("b", bound_ms=50, tried={"theirs"}) != ours.id

    wait_until(lambda: queue.next("b", bound_ms=50, tried={"theirs"}) == ours.id)


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
    queue.next("b", bound_ms=50)
    queue.start(first)
    (new,) = queue.submit("c", owner="two")

    wait_until(lambda: queue.next("b", bound_ms=50) == new.id)


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


def test_a_job_is_left_to_the_worker_that_is_loading_its_model(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    queue.submit("a")

    head = queue.head()

    assert (head.jobs, head.is_left_to_others) == ((), True)


def test_a_job_that_was_left_to_others_for_the_bound_is_taken(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    (job,) = queue.submit("a")
    assert queue.next(bound_ms=50) is None

    wait_until(lambda: queue.next(bound_ms=50) == job.id)


def test_a_long_queue_of_one_model_is_worth_another_load(queue: Queue) -> None:
    queue.loading_takes("a", 5_000)
    queue.heartbeat("other", "a")
    first, *_ = queue.submit(*["a"] * 6)

    assert queue.next() == first.id


def test_a_worker_that_is_silent_does_not_count(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    (job,) = queue.submit("a")
    client, key = queue.records.store.client, f"{queue.records.prefix}residency"
    client.hset(key, "other", '{"at":1,"backend":"null","loaded":[],"loading":"a"}')

    assert queue.next() == job.id
    assert client.hget(key, "other") is None


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
