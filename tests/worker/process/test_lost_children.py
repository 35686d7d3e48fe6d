"""What becomes of a job whose process hangs, crashes or is killed."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from shared.jobs.operations import LEASE_MS
from shared.redis.keys import Keys
from shared.redis.store import connect
from tests.api.images import encoded, scene
from tests.polling import wait_until
from tests.stack import Stack
from tests.worker.images.looking import pixels
from tests.worker.new_jobs import child_process, image_bytes, run_job, simulated, start_job, submit_job


@pytest.fixture(scope="module")
def brief(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker without a model that stops a job after two seconds."""
    folder = tmp_path_factory.mktemp("brief")
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_JOB_TIMEOUT_SECONDS="2") as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


def test_a_job_that_hangs_is_timed_out(brief: Stack) -> None:
    job = brief.api.wait_until_done(submit_job(brief, **simulated(hang=True)))

    assert job["error"]["code"] == "timed-out"
    brief.worker.wait_for(f"job {job['id']} hung")


def test_a_job_that_takes_too_long_is_stopped_at_a_step_and_costs_no_process(brief: Stack) -> None:
    run_job(brief, prompt="x")
    child = child_process(brief.worker)

    job = brief.api.wait_until_done(submit_job(brief, **simulated(seconds=30)))

    assert (job["state"], job["error"]["code"]) == ("failed", "timed-out")
    assert child_process(brief.worker) == child


def test_the_job_after_one_that_hangs_gets_a_new_process(brief: Stack) -> None:
    parent, child = psutil.Process(brief.worker.pid), child_process(brief.worker)
    brief.api.wait_until_done(submit_job(brief, **simulated(hang=True)))

    run_job(brief, prompt="x")

    assert parent.is_running()
    assert child_process(brief.worker) != child


def test_a_job_that_kills_its_process_each_time_is_given_up_after_three(brief: Stack) -> None:
    job = brief.api.wait_until_done(submit_job(brief, **simulated(die=True)))

    assert (job["attempt"], job["error"]["code"]) == (3, "worker-lost")


def test_the_queue_moves_on_past_a_job_that_kills_its_process(brief: Stack) -> None:
    deadly = submit_job(brief, **simulated(die=True))

    run_job(brief, prompt="x")

    assert brief.api.wait_until_done(deadly)["state"] == "failed"


def test_a_job_whose_process_is_killed_once_is_run_again(brief: Stack) -> None:
    job_id = start_job(brief, **simulated(seconds=1))

    child_process(brief.worker).kill()

    job = brief.api.wait_until_done(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)


def test_a_image_made_at_the_second_attempt_has_one_file(brief: Stack) -> None:
    job_id = start_job(brief, **simulated(seconds=1))

    child_process(brief.worker).kill()
    brief.api.wait_until_done(job_id)

    assert [path.name for path in brief.outputs.rglob("*") if job_id in path.name] == [f"{job_id}-0.png"]


def test_a_worker_whose_process_is_killed_while_idle_goes_on(brief: Stack) -> None:
    child_process(brief.worker).kill()

    assert run_job(brief, prompt="x")["attempt"] == 1


def test_a_failure_that_is_foreseen_costs_no_process(brief: Stack) -> None:
    child = child_process(brief.worker)

    job = brief.api.wait_until_done(submit_job(brief, **simulated(fail="out-of-memory")))

    assert job["error"]["code"] == "out-of-memory"
    assert child_process(brief.worker) == child


def test_a_process_that_is_not_fit_for_another_job_ends_when_its_job_is_on_record(brief: Stack) -> None:
    child = child_process(brief.worker)

    job = run_job(brief, prompt="x", metadata={"simulate": {"retire": True}})

    assert job["attempt"] == 1
    brief.worker.wait_for("this process will do no other job: metadata.simulate says so")
    assert run_job(brief, prompt="x")["attempt"] == 1
    assert child_process(brief.worker) != child


def test_folders_hold_no_half_written_files(brief: Stack) -> None:
    assert list(Path(brief.outputs).rglob("*.tmp")) == []


def test_jobs_that_ran_together_in_a_process_that_is_killed_are_run_again_at_once(brief: Stack, redis_url: str) -> None:
    # How long the jobs of other tests took; so long that two do not go together.
    with connect(redis_url) as client:
        client.delete(Keys(brief.prefix).duration_stats("null"))
    first = start_job(brief, **simulated(seconds=0.5))
    together = [submit_job(brief, **simulated(seconds=1.0, together=True)) for _ in range(3)]
    brief.api.wait_until_done(first)
    # All of them are rendered in the same go once one is.
    with brief.api.events(together[-1]) as events:
        assert any(event.type == "progress" for event in events)

    begin = time.monotonic()
    child_process(brief.worker).kill()
    ended = [brief.api.wait_until_done(job_id) for job_id in together]

    # Sooner than their leases lapse.
    assert time.monotonic() - begin < LEASE_MS / 1000
    assert [(job["state"], job["attempt"]) for job in ended] == [("succeeded", 2)] * 3


def test_images_that_came_with_a_job_outlive_its_process(brief: Stack) -> None:
    image = base64.b64encode(encoded(scene())).decode()
    job_id = start_job(brief, **simulated(seconds=1), image=image, strength=0.001)

    child_process(brief.worker).kill()

    job = brief.api.wait_until_done(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert np.abs(pixels(image_bytes(brief, job)).astype(int) - np.asarray(scene())).max() <= 1
    wait_until(lambda: not (brief.outputs / "inputs" / job_id).exists())
