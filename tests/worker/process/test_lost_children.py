"""What happens to a job whose process hangs, crashes or is killed."""

import base64
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from shared.redis.keys import Keys
from shared.redis.store import connect
from tests.api.images import encoded, scene
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.worker.images.image_checks import pixels
from tests.worker.new_jobs import child_process, image_bytes, run_job, simulated, start_job, submit_job
from tests.worker.worker_records import only_worker


@pytest.fixture(scope="module")
def brief(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A worker without a model that stops a job after two seconds."""
    folder = tmp_path_factory.mktemp("brief")
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_JOB_TIMEOUT_SECONDS="2") as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


def test_a_job_that_hangs_times_out_and_the_next_one_gets_a_new_process(brief: Stack) -> None:
    parent, child = psutil.Process(brief.worker.pid), child_process(brief.worker)

    job = brief.api.wait_until_done(submit_job(brief, **simulated(hang=True)))
    run_job(brief, prompt="x")

    assert job["error"]["code"] == "timed-out"
    brief.worker.wait_for(f"job {job['id']} hung")
    assert parent.is_running()
    assert child_process(brief.worker) != child


def test_a_job_that_takes_too_long_is_stopped_at_a_step_and_costs_no_process(brief: Stack) -> None:
    run_job(brief, prompt="x")
    child = child_process(brief.worker)

    job = brief.api.wait_until_done(submit_job(brief, **simulated(seconds=30)))

    assert (job["state"], job["error"]["code"]) == ("failed", "timed-out")
    assert child_process(brief.worker) == child


def test_a_job_that_kills_its_process_fails_after_three_attempts_and_the_queue_moves_on(brief: Stack) -> None:
    deadly = submit_job(brief, **simulated(die=True))

    run_job(brief, prompt="x")

    job = brief.api.wait_until_done(deadly)
    assert (job["attempt"], job["error"]["code"]) == (3, "worker-lost")


def test_a_job_whose_process_is_killed_once_runs_again_with_its_input_images(brief: Stack) -> None:
    image = base64.b64encode(encoded(scene())).decode()
    job_id = start_job(brief, **simulated(seconds=1), image=image, strength=0.001)

    child_process(brief.worker).kill()

    job = brief.api.wait_until_done(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert np.abs(pixels(image_bytes(brief, job)).astype(int) - np.asarray(scene())).max() <= 1
    wait_until(lambda: not (brief.outputs / "inputs" / job_id).exists())
    assert [path.name for path in brief.find("*") if job_id in path.name] == [f"{job_id}-0.png"]


def test_a_worker_whose_process_is_killed_while_idle_goes_on(brief: Stack) -> None:
    child_process(brief.worker).kill()

    assert run_job(brief, prompt="x")["attempt"] == 1


def test_an_expected_failure_costs_no_process(brief: Stack) -> None:
    child = child_process(brief.worker)

    job = brief.api.wait_until_done(submit_job(brief, **simulated(fail="out-of-memory")))

    assert job["error"]["code"] == "out-of-memory"
    assert child_process(brief.worker) == child


def test_a_process_that_is_not_fit_for_another_job_ends_once_its_job_is_recorded(brief: Stack) -> None:
    child = child_process(brief.worker)

    job = run_job(brief, prompt="x", metadata={"simulate": {"retire": True}})

    assert job["attempt"] == 1
    brief.worker.wait_for("requested by metadata.simulate")
    assert run_job(brief, prompt="x")["attempt"] == 1
    assert child_process(brief.worker) != child


def test_jobs_of_a_batch_whose_process_is_killed_run_again_at_once(brief: Stack, redis_url: str) -> None:
    # Jobs of other tests took so long that two of them would not go into one batch.
    with connect(redis_url) as client:
        client.delete(Keys(brief.prefix).duration_stats("null"))
    first = start_job(brief, **simulated(seconds=0.5))
    batch = [submit_job(brief, **simulated(seconds=1.0, together=True)) for _ in range(3)]
    brief.api.wait_until_done(first)
    # Once one renders, all do.
    with brief.api.events(batch[-1]) as events:
        assert any(event.type == "progress" for event in events)

    child_process(brief.worker).kill()
    ended = [brief.api.wait_until_done(job_id) for job_id in batch]

    # Nothing here waits for their leases to expire.
    brief.worker.wait_for(*(f"the worker of job {job_id} was lost; the job is requeued" for job_id in batch))
    assert [(job["state"], job["attempt"]) for job in ended] == [("succeeded", 2)] * 3


def test_a_job_whose_image_an_idle_process_was_still_storing_runs_again_at_once(null: Stack) -> None:
    def state() -> str:
        record = only_worker(null)
        return record.state if record else ""

    large = {"width": 2048, "height": 2048, "num_images": 2, "num_inference_steps": 20, "output_format": "webp"}
    job_id = start_job(null, **{**simulated(seconds=2), **large})
    wait_until(lambda: state() == "busy")
    wait_until(lambda: state() == "ready")

    child_process(null.worker).kill()
    job = null.api.wait_until_done(job_id)

    # Nothing here waits for its lease to expire.
    null.worker.wait_for(f"the worker of job {job_id} was lost; the job is requeued")
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
