"""What is on record of jobs that were bought, and of the places that they take."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.errors import StorageUnavailable, WorkerLost
from shared.jobs.job import Job, JobError, ProviderTask
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobFilter
from shared.jobs.types import Backend
from shared.redis.concurrency_slots import ConcurrencySlots
from shared.redis.store import Store, connect
from tests.shared.conftest import Records
from tests.worker.bench import Bench, speckled, wake
from worker.engines.base import JobWatch
from worker.engines.null import NullEngine
from worker.images.values import Inputs, RenderedImage
from worker.records.concurrency_slots import RedisConcurrencySlots

TASK = ProviderTask(id="task", polling_url="https://api.bfl.ai/v1/get_result?id=task", cost=3.0)
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)

Buying = Callable[[JobWatch], None]


class Shop(NullEngine):
    """Buys as it is told."""

    def __init__(self, buying: Buying) -> None:
        self._buying = buying

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:  # noqa: ARG002
        self._buying(watch)
        return [RenderedImage(speckled(64, 64), request.seed or 0)]


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"bought-{tmp_path.name}:", tmp_path)


def run(bench: Bench, job: Job, buying: Buying, stopping: threading.Event | None = None) -> Job:
    wake(bench.runner(Shop(buying), stopping=stopping))
    return bench.read(job)


def test_what_was_bought_is_on_record_after_the_end(bench: Bench) -> None:
    done = run(bench, bench.submit(), lambda watch: watch.save_provider_tasks((TASK,)))

    assert (done.state, done.providers) == ("succeeded", (TASK,))


def test_what_was_bought_is_stored_as_soon_as_that_can_be(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    day = Path(f"{datetime.now(UTC):%Y}")
    job = bench.submit()

    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks((TASK,))
        # In the place of a folder there is a file.
        (bench.folder / day).write_text("")

    ended: list[Job] = []
    worker = threading.Thread(target=lambda: ended.append(run(bench, job, buy)))
    worker.start()
    end = time.monotonic() + 10
    while "cannot be stored yet" not in caplog.text:
        assert time.monotonic() < end
        threading.Event().wait(0.02)
    (bench.folder / day).unlink()
    worker.join(10)

    assert [job.state for job in ended] == ["succeeded"]


def test_what_was_not_bought_fails_where_it_cannot_be_stored(bench: Bench) -> None:
    def draw(_: JobWatch) -> None:
        (bench.folder / f"{datetime.now(UTC):%Y}").write_text("")

    done = run(bench, bench.submit(), draw)

    assert done.state == "failed"


@pytest.mark.parametrize("bought", [(), (TASK,)])
def test_nobody_is_told_to_try_again_what_was_paid_for(bench: Bench, bought: tuple[ProviderTask, ...]) -> None:
    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks(bought)
        raise StorageUnavailable

    failed = run(bench, bench.submit(), buy)

    assert failed.error is not None
    assert (failed.error.code, failed.error.retryable) == ("storage-unavailable", not bought)


def test_a_job_that_cost_its_workers_after_it_was_bought_is_not_to_be_tried_again(bench: Bench) -> None:
    running = bench.start(bench.submit())
    assert bench.job_store.save_provider_tasks(running.model_copy(update={"providers": (TASK,)}))

    failed = bench.read(running).fail(JobError.from_error(WorkerLost()), NOW)

    assert (failed.error, failed.providers) == (
        JobError.from_error(WorkerLost()).model_copy(update={"retryable": False}),
        (TASK,),
    )


def test_what_was_bought_is_on_record_in_lists(bench: Bench) -> None:
    run(bench, bench.submit(), lambda watch: watch.save_provider_tasks((TASK,)))

    page = bench.store.run(bench.jobs.list_page(JobFilter(), 10, None))

    assert [snapshot.job.providers for snapshot in page.jobs] == [(TASK,)]


def test_the_next_attempt_knows_what_was_bought(bench: Bench) -> None:
    job = bench.submit()
    running = bench.start(job)
    assert bench.job_store.save_provider_tasks(running.model_copy(update={"providers": (TASK,)}))
    # As whoever takes it back has it: a copy from before the purchase.
    queued = bench.requeue(running)
    seen: list[tuple[ProviderTask, ...]] = []

    run(bench, queued, lambda watch: seen.append(watch.provider_tasks))

    assert seen == [(TASK,)]


def test_a_later_attempt_warns_of_what_the_caller_asked_for_and_no_more(bench: Bench) -> None:
    leaving = threading.Event()

    def leave(watch: JobWatch) -> None:
        leaving.set()
        watch.check()

    left = run(bench, bench.submit(negative_prompt="y"), leave, leaving)
    done = run(bench, bench.requeue(left), lambda _: None)

    assert (done.attempt, done.warnings) == (2, left.warnings)
    assert done.warnings == ("negative_prompt is ignored: null cannot honour it",)


def test_a_purchase_of_a_job_that_was_taken_away_is_not_put_on_record(bench: Bench) -> None:
    job = bench.submit()

    def buy(watch: JobWatch) -> None:
        bench.start(bench.requeue(bench.read(job)))
        watch.save_provider_tasks((TASK,))

    after = run(bench, job, buy)

    assert (after.state, after.attempt, after.providers) == ("running", 2, ())


def test_a_worker_that_leaves_lets_go_of_its_job_without_a_word(bench: Bench) -> None:
    leaving = threading.Event()

    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks((TASK,))
        leaving.set()
        watch.check()

    after = run(bench, bench.submit(), buy, leaving)

    assert (after.state, after.providers) == ("running", (TASK,))
    assert bench.files == []


def test_a_request_that_nobody_could_check_before_is_refused_before_it_is_bought(bench: Bench) -> None:
    bought: list[JobWatch] = []

    after = run(bench, bench.submit(width=8000), bought.append)

    assert after.error is not None
    assert (after.error.code, bought) == ("invalid-request", [])
    assert after.error.detail == "The null model cannot make this image. width must be between 16 and 4096"


@pytest.mark.parametrize("state", ["queued", "succeeded"])
def test_only_a_running_job_buys(records: Records, state: str) -> None:
    job = records.accepted()
    if state == "succeeded":
        running = job.start("m", "w", NOW)
        assert records.run(records.jobs.move(job, running))
        job = running.succeed((), running.timings, NOW)
        assert records.run(records.jobs.move(running, job))

    assert not records.run(records.jobs.save_provider_tasks(job.model_copy(update={"providers": (TASK,)})))
    assert records.held(job).providers == ()


@pytest.fixture
def records(redis_url: str) -> Iterator[Records]:
    records = Records(redis_url)
    yield records
    records.store.client.close()


@pytest.fixture
def places(records: Records) -> ConcurrencySlots:
    return ConcurrencySlots(records.prefix, Backend.FLUX_API, 2)


def test_there_are_so_many_places_and_no_more(records: Records, places: ConcurrencySlots) -> None:
    assert [records.run(places.acquire(name)) for name in ("a", "b", "c", "a")] == [True, True, False, True]

    records.run(places.release("a"))

    assert records.run(places.acquire("c"))


def test_a_place_that_is_not_kept_lapses(
    records: Records, places: ConcurrencySlots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.redis.concurrency_slots.SLOT_LEASE_MS", 200)
    records.run(places.acquire("a"))
    records.run(places.acquire("b"))
    monkeypatch.setattr("shared.redis.concurrency_slots.SLOT_LEASE_MS", 60_000)
    records.run(places.renew(["b"]))

    time.sleep(0.25)

    assert records.run(places.acquire("c"))
    assert not records.run(places.acquire("d"))


def test_a_place_that_was_given_back_is_not_kept(records: Records, places: ConcurrencySlots) -> None:
    records.run(places.acquire("a"))
    records.run(places.release("a"))

    records.run(places.renew(["a"]))

    assert [records.run(places.acquire(name)) for name in ("b", "c")] == [True, True]


def test_who_waits_for_a_place_can_be_stopped(redis_url: str, records: Records, places: ConcurrencySlots) -> None:
    for name in ("a", "b"):
        records.run(places.acquire(name))
    waiting = RedisConcurrencySlots(Store(connect(redis_url)), places)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), waiting.held(stop):
        raise AssertionError


def test_who_waits_for_a_place_gets_the_next(redis_url: str, records: Records, places: ConcurrencySlots) -> None:
    for name in ("a", "b"):
        records.run(places.acquire(name))
    waiting = RedisConcurrencySlots(Store(connect(redis_url)), places)

    with waiting.held(lambda: records.run(places.release("a"))):
        assert not records.run(places.acquire("c"))

    assert records.run(places.acquire("c"))
