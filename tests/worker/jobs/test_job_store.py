"""What a worker's record of jobs promises while Redis comes and goes."""

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
def line(redis_url: str) -> Iterator[Proxy]:
    with proxy_to(redis_url) as proxy:
        yield proxy


@pytest.fixture
def bench(line: Proxy, tmp_path: Path) -> Bench:
    return Bench(line.url, f"job_store{next(_numbers)}:", tmp_path)


def draw_for_ever(line: ProgressChannel) -> None:
    for step in itertools.count(1):
        line.progress(Progress(step=step, steps=10**9, fraction=0.5))
        line.check()


def test_the_end_of_a_job_is_recorded_once_redis_is_back(bench: Bench, line: Proxy) -> None:
    running = bench.start(bench.submit())
    done = running.succeed((), Timings(), datetime.now(UTC))
    line.cut()

    with ThreadPoolExecutor() as threads:
        moved = threads.submit(bench.job_store.move, [(running, done)])
        assert line.refused.wait(10)
        line.mend()

        assert moved.result(30) == [True]
    assert bench.read(running) == done


def test_a_move_whose_answer_was_lost_has_succeeded(bench: Bench, line: Proxy) -> None:
    running = bench.start(bench.submit())
    done = running.succeed((), Timings(), datetime.now(UTC))
    line.lose_next_answer()

    assert bench.job_store.move([(running, done)]) == [True]


def test_a_move_that_somebody_else_made_first_has_failed(bench: Bench) -> None:
    queued = bench.submit()
    bench.start(queued)

    assert bench.job_store.move([(queued, queued.start("another", "worker", datetime.now(UTC)))]) == [False]


def test_a_job_goes_on_while_redis_is_away(bench: Bench, line: Proxy) -> None:
    running = bench.start(bench.submit())

    with bench.job_store.open_channel(running) as told:
        line.cut()
        told.progress(Progress(step=1, steps=2, fraction=0.5))
        assert line.refused.wait(10)

        told.check()
    line.mend()


def test_a_cancel_is_heard_once_redis_is_back(bench: Bench, line: Proxy) -> None:
    running = bench.start(bench.submit())
    bench.store.run(bench.jobs.request_cancel(running.id))
    line.cut()

    with bench.job_store.open_channel(running) as told:
        told.progress(Progress(step=1, steps=2, fraction=0.5))
        assert line.refused.wait(10)
        line.mend()

        with pytest.raises(JobCancelled):
            draw_for_ever(told)
