"""The job store of a worker while Redis comes and goes."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shared.jobs.job import Progress, Timings
from tests.worker.bench import Bench
from tests.worker.proxy import Proxy, proxy_to
from worker.jobs.job_store import JobCancelled, ProgressChannel

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
    done = running.succeed((), Timings(), datetime.now(UTC))
    proxy.lose_next_reply()

    assert bench.job_store.move([(running, done)]) == [True]


def test_a_move_fails_if_another_worker_moved_the_job_first(bench: Bench) -> None:
    queued = bench.submit()
    bench.start(queued)

    assert bench.job_store.move([(queued, queued.start("another", "worker", datetime.now(UTC)))]) == [False]


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
