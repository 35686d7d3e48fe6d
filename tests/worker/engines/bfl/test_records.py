"""Provider tasks in job records."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.errors import StorageUnavailable, WorkerLost
from shared.jobs.job import Job, JobError, ProviderTask
from shared.jobs.operations import ProgressReply
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobFilter
from tests.shared.conftest import Records
from tests.support.polling import wait_until
from tests.worker.bench import Bench, speckled, wake
from worker.engines.base import JobWatch
from worker.engines.null import NullEngine
from worker.images.values import Inputs, RenderedImage

TASK = ProviderTask(id="task", polling_url="https://api.bfl.ai/v1/get_result?id=task", cost=3.0)
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)

Buying = Callable[[JobWatch], None]


class Shop(NullEngine):
    """Saves the provider tasks that a test asks for."""

    def __init__(self, buying: Buying) -> None:
        self._buying = buying

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:  # noqa: ARG002
        self._buying(watch)
        return [RenderedImage(speckled(64, 64), request.seed or 0)]

    def credits(self) -> float | None:
        return None


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"bought-{tmp_path.name}:", tmp_path)


def run(bench: Bench, job: Job, buying: Buying, stopping: threading.Event | None = None) -> Job:
    wake(bench.runner(Shop(buying), stopping=stopping))
    return bench.read(job)


def test_provider_tasks_are_in_the_record_of_the_finished_job(bench: Bench) -> None:
    done = run(bench, bench.submit(), lambda watch: watch.save_provider_tasks((TASK,)))

    assert (done.state, done.providers) == ("succeeded", (TASK,))


def test_images_that_were_paid_for_are_stored_as_soon_as_storage_works(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    job = bench.submit()

    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks((TASK,))
        break_storage(bench)

    ended: list[Job] = []
    worker = threading.Thread(target=lambda: ended.append(run(bench, job, buy)))
    worker.start()
    wait_until(lambda: "cannot be stored yet" in caplog.text)
    (bench.folder / f"{datetime.now(UTC):%Y}").unlink()
    worker.join(60)

    assert [job.state for job in ended] == ["succeeded"]


def break_storage(bench: Bench) -> None:
    """A file instead of a folder."""
    (bench.folder / f"{datetime.now(UTC):%Y}").write_text("")


def test_a_worker_that_stops_leaves_a_job_whose_storage_does_not_work_to_the_next(bench: Bench) -> None:
    leaving = threading.Event()

    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks((TASK,))
        break_storage(bench)
        leaving.set()

    left = run(bench, bench.submit(), buy, leaving)

    assert (left.state, left.providers) == ("running", (TASK,))


def test_a_storage_that_never_works_again_fails_the_job_in_the_end(bench: Bench) -> None:
    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks((TASK,))
        break_storage(bench)

    job, runner = bench.submit(), bench.runner(Shop(buy))
    runner.saver = replace(runner.saver, retry_seconds=0)
    wake(runner)

    assert (bench.read(job).state, bench.read(job).providers) == ("failed", (TASK,))


def test_images_that_cost_nothing_fail_at_once_without_storage(bench: Bench) -> None:
    done = run(bench, bench.submit(), lambda _: break_storage(bench))

    assert done.state == "failed"


@pytest.mark.parametrize("bought", [(), (TASK,)])
def test_a_job_that_was_paid_for_is_not_retryable(bench: Bench, bought: tuple[ProviderTask, ...]) -> None:
    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks(bought)
        raise StorageUnavailable

    failed = run(bench, bench.submit(), buy)

    assert failed.error is not None
    assert (failed.error.code, failed.error.retryable) == ("storage-unavailable", not bought)


def test_a_job_that_was_paid_for_and_lost_its_workers_is_not_retryable(bench: Bench) -> None:
    running = bench.start(bench.submit())
    bench.job_store.save_provider_tasks(running.model_copy(update={"providers": (TASK,)}))

    failed = bench.read(running).fail(JobError.from_error(WorkerLost()), NOW)

    assert (failed.error, failed.providers) == (
        JobError.from_error(WorkerLost()).model_copy(update={"retryable": False}),
        (TASK,),
    )


def test_provider_tasks_are_in_lists_of_jobs(bench: Bench) -> None:
    run(bench, bench.submit(), lambda watch: watch.save_provider_tasks((TASK,)))

    page = bench.store.run(bench.jobs.list_page(JobFilter(), 10, None))

    assert [snapshot.job.providers for snapshot in page.jobs] == [(TASK,)]


def test_the_next_attempt_knows_earlier_provider_tasks(bench: Bench) -> None:
    job = bench.submit()
    running = bench.start(job)
    bench.job_store.save_provider_tasks(running.model_copy(update={"providers": (TASK,)}))
    # A copy from before the tasks were saved.
    queued = bench.requeue(running)
    seen: list[tuple[ProviderTask, ...]] = []

    run(bench, queued, lambda watch: seen.append(watch.provider_tasks))

    assert seen == [(TASK,)]


def test_a_redis_that_was_restored_from_a_backup_pays_for_no_image_again(bench: Bench) -> None:
    job, client = bench.submit(), bench.store.client
    backup = list(client.scan_iter(f"{bench.prefix}*"))
    for key in backup:
        client.copy(key, f"backup:{key}")
    done = run(bench, job, lambda _: None)
    client.delete(*client.scan_iter(f"{bench.prefix}*"))
    for key in backup:
        client.rename(f"backup:{key}", key)

    def buy(_: JobWatch) -> None:
        raise AssertionError

    restored = run(bench, job, buy)

    assert (restored.state, restored.images) == ("succeeded", done.images)


def test_a_later_attempt_repeats_only_the_warnings_of_the_original_request(bench: Bench) -> None:
    leaving = threading.Event()

    def leave(watch: JobWatch) -> None:
        leaving.set()
        watch.check()

    left = run(bench, bench.submit(negative_prompt="y"), leave, leaving)
    done = run(bench, bench.requeue(left), lambda _: None)

    assert (done.attempt, done.warnings) == (2, left.warnings)
    assert done.warnings == ("negative_prompt is ignored: null does not support it",)


def test_a_worker_that_lost_its_job_cannot_save_provider_tasks(bench: Bench) -> None:
    job = bench.submit()

    def buy(watch: JobWatch) -> None:
        bench.start(bench.requeue(bench.read(job)))
        watch.save_provider_tasks((TASK,))

    after = run(bench, job, buy)

    assert (after.state, after.attempt, after.providers) == ("running", 2, ())


def test_nothing_more_is_bought_for_a_job_that_was_cancelled(bench: Bench) -> None:
    job, sent = bench.submit(num_images=2), list[int]()

    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks((ProviderTask(),))
        sent.append(1)
        bench.store.run(bench.jobs.request_cancel(job.id))
        # Known to have been bought.
        watch.save_provider_tasks((TASK,))
        watch.save_provider_tasks((TASK, ProviderTask()))
        sent.append(2)

    after = run(bench, job, buy)

    assert (after.state, after.providers, sent) == ("cancelled", (TASK,), [1])


def test_a_worker_that_shuts_down_leaves_the_record_unchanged(bench: Bench) -> None:
    leaving = threading.Event()

    def buy(watch: JobWatch) -> None:
        watch.save_provider_tasks((TASK,))
        leaving.set()
        watch.check()

    after = run(bench, bench.submit(), buy, leaving)

    assert (after.state, after.providers) == ("running", (TASK,))
    assert bench.files == []


def test_an_unchecked_request_is_checked_before_it_costs_money(bench: Bench) -> None:
    bought: list[JobWatch] = []

    after = run(bench, bench.submit(width=8000), bought.append)

    assert after.error is not None
    assert (after.error.code, bought) == ("invalid-request", [])
    assert after.error.detail == "The null model cannot make this image. width must be between 16 and 4096"


@pytest.mark.parametrize("state", ["queued", "succeeded"])
def test_only_a_running_job_saves_provider_tasks(records: Records, state: str) -> None:
    job = records.accepted()
    if state == "succeeded":
        running = job.start("m", "w", NOW)
        assert records.run(records.jobs.move(job, running))
        job = running.succeed((), running.timings, NOW)
        assert records.run(records.jobs.move(running, job))

    saved = records.run(records.jobs.save_provider_tasks(job.model_copy(update={"providers": (TASK,)})))

    assert saved is ProgressReply.LOST
    assert records.read(job).providers == ()


@pytest.fixture
def records(redis_url: str) -> Iterator[Records]:
    records = Records(redis_url)
    yield records
    records.store.client.close()
