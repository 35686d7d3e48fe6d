"""Workers that share a queue: two of one name do not take each other's jobs, and one that starts finds what waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.jobs.types import Backend
from shared.redis.keys import Keys
from shared.redis.store import connect
from tests.polling import wait_until
from tests.stack import Stack
from tests.worker.new_jobs import child_process, simulated, start_job, submit_job
from tests.worker.worker_records import worker_records


@pytest.fixture
def pair(redis_url: str, tmp_path: Path) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path, SD_BACKENDS="null") as stack:
        for _ in range(2):
            stack.start_worker("null", name="null@twin")
        stack.start_api()
        yield stack


def test_a_worker_whose_child_is_killed_leaves_the_jobs_of_its_namesake_alone(pair: Stack) -> None:
    wait_until(lambda: len({record.id for record in worker_records(pair)}) == 2)
    assert {record.name for record in worker_records(pair)} == {"null@twin"}
    jobs = [start_job(pair, **simulated(seconds=3)) for _ in range(2)]

    child_process(pair.workers[0]).kill()

    ended = [pair.api.wait_until_done(job_id) for job_id in jobs]
    assert [job["state"] for job in ended] == ["succeeded", "succeeded"]
    assert sorted(job["attempt"] for job in ended) == [1, 2]


def test_a_worker_that_ends_takes_no_record_of_its_namesake_along(pair: Stack) -> None:
    wait_until(lambda: len(worker_records(pair)) == 2)

    pair.workers[0].stop()

    assert [record.name for record in worker_records(pair)] == ["null@twin"]


def test_a_worker_that_starts_looks_into_the_queue_whatever_became_of_the_messages(
    redis_url: str, tmp_path: Path
) -> None:
    with Stack(redis_url, tmp_path, SD_BACKENDS="null") as stack:
        stack.start_api()
        job_id = submit_job(stack, prompt="x")
        with connect(redis_url) as client:
            client.delete(Keys(stack.prefix).wake_ups(Backend.NULL))

        stack.start_worker("null")

        assert stack.api.wait_until_done(job_id)["state"] == "succeeded"
