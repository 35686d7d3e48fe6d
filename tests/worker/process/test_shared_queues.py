"""Workers that share a queue and a name keep to their own jobs and records; a new worker finds waiting jobs."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.jobs.types import Backend
from shared.redis.keys import Keys
from shared.redis.store import connect
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.new_jobs import child_process, simulated, start_job, submit_job
from tests.worker.worker_records import worker_records


@pytest.fixture(scope="module")
def service(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API; each test starts the workers that it wants, and stops them."""
    with Stack(redis_url, tmp_path_factory.mktemp("shared-queue"), SD_BACKENDS="null") as stack:
        stack.start_api()
        yield stack


def test_workers_of_one_name_keep_to_their_own_jobs_and_records(service: Stack) -> None:
    first, second = (service.start_worker("null", name="null@same") for _ in range(2))
    wait_until(lambda: len({record.id for record in worker_records(service)}) == 2)
    assert {record.name for record in worker_records(service)} == {"null@same"}
    jobs = [start_job(service, **simulated(seconds=3)) for _ in range(2)]

    child_process(first).kill()

    ended = [service.api.wait_until_done(job_id) for job_id in jobs]
    assert [job["state"] for job in ended] == ["succeeded", "succeeded"]
    assert sorted(job["attempt"] for job in ended) == [1, 2]

    first.stop()

    assert [record.name for record in worker_records(service)] == ["null@same"]
    second.stop()


def test_a_new_worker_finds_a_waiting_job_whose_wake_up_was_lost(service: Stack, redis_url: str) -> None:
    job_id = submit_job(service, prompt="x")
    with connect(redis_url) as client:
        client.delete(Keys(service.prefix).wake_ups(Backend.NULL))

    worker = service.start_worker("null")

    assert service.api.wait_until_done(job_id)["state"] == "succeeded"
    worker.stop()


def test_a_worker_without_standard_streams_runs_jobs(service: Stack) -> None:
    job_id = submit_job(service, prompt="x")

    command = f"exec {sys.executable} -m worker.main null@closed <&- >&- 2>&-"
    worker = service.run(["sh", "-c", command], SD_BACKEND="null")

    assert service.api.wait_until_done(job_id)["state"] == "succeeded"
    worker.stop()


def test_the_database_in_the_query_of_the_url_is_that_of_the_wake_ups(redis_url: str, tmp_path: Path) -> None:
    with Stack(f"{redis_url}?db=1", tmp_path, SD_BACKENDS="null") as stack:
        stack.start_api()
        stack.start_worker("null")

        assert stack.api.wait_until_done(submit_job(stack, prompt="x"))["state"] == "succeeded"
