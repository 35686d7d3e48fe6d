"""The job store of a worker while Redis comes and goes."""

import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.jobs.job import Job, Progress, ProviderTask, Timings
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.redis.store import Operation
from tests.support.failing_store import FailingStore
from tests.support.polling import wait_until
from tests.worker.bench import Bench, speckled
from tests.worker.proxy import Proxy, proxy_to
from worker.engines.base import JobWatch
from worker.images.values import RenderedImage
from worker.jobs.job_store import JobCancelled, ProgressChannel
from worker.records import redis_job_store
from worker.records.redis_job_store import RedisJobStore

_numbers = itertools.count()


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with proxy_to(redis_url) as proxy:
        yield proxy


@pytest.fixture
def bench(proxy: Proxy, tmp_path: Path) -> Bench:
    return Bench(proxy.url, f"job_store{next(_numbers)}:", tmp_path)


def report_for_ever(channel: ProgressChannel) -> None:
    for step in itertools.count(1):
        channel.progress(Progress(step=step, steps=10**9, fraction=0.5))
        channel.check()


def test_the_end_of_a_job_is_recorded_once_redis_is_back(bench: Bench, proxy: Proxy) -> None:
    running = bench.start(bench.submit())
    done = running.succeed((), Timings(), datetime.now(UTC))
    proxy.cut()

    with ThreadPoolExecutor() as threads:
        moved = threads.submit(bench.job_store.move, [(running, done)])
        assert proxy.refused.wait(10)
        proxy.mend()

        assert moved.result(30) == [True]
    assert bench.read(running) == done


def test_a_move_whose_reply_was_lost_has_succeeded(bench: Bench, proxy: Proxy) -> None:
    running = bench.start(bench.submit())
    bench.job_store.save_provider_tasks(running.model_copy(update={"providers": (ProviderTask(id="bought"),)}))
    done = running.succeed((), Timings(), datetime.now(UTC))
    proxy.lose_next_reply()

    assert bench.job_store.move([(running, done)]) == [True]


def test_a_move_fails_if_another_worker_moved_the_job_first(bench: Bench) -> None:
    queued, moved = bench.submit(), list[Job]()
    bench.start(queued)
    job_store = RedisJobStore(bench.store, bench.jobs, Backend.NULL, moved.append)

    assert job_store.move([(queued, queued.start("another", "worker", datetime.now(UTC)))]) == [False]
    assert moved == []


def test_a_job_goes_on_while_redis_is_away(bench: Bench, proxy: Proxy) -> None:
    running = bench.start(bench.submit())

    with bench.job_store.open_channel(running) as channel:
        proxy.cut()
        channel.progress(Progress(step=1, steps=2, fraction=0.5))
        assert proxy.refused.wait(10)

        channel.check()
    proxy.mend()


def test_a_cancellation_arrives_once_redis_is_back(bench: Bench, proxy: Proxy) -> None:
    running = bench.start(bench.submit())
    bench.store.run(bench.jobs.request_cancel(running.id))
    proxy.cut()

    with bench.job_store.open_channel(running) as channel:
        channel.progress(Progress(step=1, steps=2, fraction=0.5))
        assert proxy.refused.wait(10)
        proxy.mend()

        with pytest.raises(JobCancelled):
            report_for_ever(channel)


def test_a_job_is_reported_on_after_an_unforeseen_error(bench: Bench, redis_url: str) -> None:
    running = bench.start(bench.submit())
    store = FailingStore(redis_url, {"jobs/report_progress": ValueError("an answer that nobody expects")})

    with RedisJobStore(store, bench.jobs, Backend.NULL).open_channel(running) as channel:
        channel.progress(Progress(step=1, steps=2, fraction=0.5))
        wait_until(lambda: not store.errors)
        bench.store.run(bench.jobs.request_cancel(running.id))

        with pytest.raises(JobCancelled):
            report_for_ever(channel)


def test_a_job_that_has_ended_is_no_longer_reported_on(
    bench: Bench, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_job_store, "RENEW_SECONDS", 0.01)
    first, second = (bench.start(bench.submit()) for _ in range(2))
    reported = list[str]()

    class RecordingStore(FailingStore):
        def run_all(self, operations: Sequence[Operation[Any]]) -> list[Any]:
            reported.extend(operation.keys[0] for operation in operations)
            return super().run_all(operations)

    job_store = RedisJobStore(RecordingStore(redis_url, {}), bench.jobs, Backend.NULL)
    with job_store.open_channel(first):
        wait_until(lambda: reported)
    with job_store.open_channel(second):
        # A report that was under way is not awaited.
        wait_until(lambda: len(set(reported)) == 2 and len(set(reported[-4:])) == 1)


def test_a_worker_whose_machine_has_slept_asks_whether_the_job_is_still_its_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = bench.submit()

    def sleep(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        bench.start(bench.requeue(bench.read(job)))
        now = time.time
        # The other clock stops meanwhile.
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        return [RenderedImage(speckled(64, 64), 0)]

    assert bench.run(job, sleep).attempt == 2
    assert bench.files == []
