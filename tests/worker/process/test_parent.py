"""What a worker's parent process promises: it is small, it answers, it ends in order."""

import signal
import sys
from pathlib import Path

import psutil
import pytest

from shared.jobs.types import Backend
from tests.conftest import RED_HEART
from tests.polling import wait_until
from tests.stack import Stack
from tests.worker.new_jobs import child_process, get_job, run_job, simulated, start_job
from tests.worker.worker_records import only_worker, worker_records

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@ONLY_LINUX
def test_the_parent_loads_no_model_library(sd: Stack) -> None:
    assert "libtorch" in Path(f"/proc/{child_process(sd.worker).pid}/maps").read_text()
    assert "libtorch" not in Path(f"/proc/{sd.worker.pid}/maps").read_text()


def test_the_parent_takes_less_than_a_hundred_megabytes(sd: Stack) -> None:
    assert psutil.Process(sd.worker.pid).memory_info().rss < 100e6


@ONLY_LINUX
def test_a_worker_tells_how_full_its_device_is_and_what_a_step_takes(sd: Stack) -> None:
    job = run_job(sd, **RED_HEART)

    record, metrics = only_worker(sd), sd.api.get("/metrics").text

    assert record is not None
    assert record.memory is not None
    assert 0 < record.memory.used_bytes < record.memory.size_bytes
    assert 'imagegen_device_memory_size_bytes{backend="sd",device="cpu",worker="0"}' in metrics
    timings, steps = job["timings"], job["request"]["num_inference_steps"]
    assert 0 < timings["step_ms"] * steps < timings["generate_ms"]


def test_the_parent_answers_while_a_job_is_rendered(null: Stack) -> None:
    job_id = start_job(null, **simulated(seconds=60))

    ping = null.run([sys.executable, "-m", "celery", "-A", "worker.main", "inspect", "ping"], SD_BACKEND="null")

    assert ping.wait() == 0
    assert "pong" in ping.output
    assert get_job(null, job_id)["state"] == "running"
    null.api.delete(f"/api/jobs/{job_id}")


@pytest.fixture
def own(stack: Stack) -> Stack:
    """A worker without a model for one test."""
    stack.settings["SD_BACKENDS"] = "null"
    stack.start_worker("null")
    stack.start_api()
    return stack


def test_a_worker_tells_that_it_is_loading_before_it_is_ready(stack: Stack) -> None:
    worker = stack.start_worker("sd", ready=False)

    wait_until(lambda: only_worker(stack) is not None)

    record = only_worker(stack)
    assert record is not None
    assert (record.state, record.backend, record.model, record.device) == ("loading", Backend.SD, "starter", None)
    assert "ready." not in worker.output
    worker.send(signal.SIGKILL)


def test_a_worker_tells_what_it_is_and_that_it_is_ready(own: Stack) -> None:
    record = only_worker(own)

    assert record is not None
    assert (record.state, record.model, record.device, record.current_job) == ("ready", "null", "none", None)


def test_a_busy_worker_tells_which_job_it_has(own: Stack) -> None:
    job_id = start_job(own, **simulated(seconds=60))

    wait_until(lambda: (record := only_worker(own)) is not None and record.current_job == job_id)

    own.api.delete(f"/api/jobs/{job_id}")
    wait_until(
        lambda: (record := only_worker(own)) is not None and (record.state, record.current_job) == ("ready", None)
    )


def test_a_worker_that_is_asked_to_end_finishes_its_job_and_leaves(own: Stack) -> None:
    job_id = start_job(own, **simulated(seconds=2))

    own.worker.send(signal.SIGTERM)

    assert own.worker.wait() == 0
    assert get_job(own, job_id)["state"] == "succeeded"
    assert worker_records(own) == ()


def test_a_worker_that_is_asked_to_end_while_loading_ends(stack: Stack) -> None:
    worker = stack.start_worker("sd", ready=False)
    wait_until(lambda: only_worker(stack) is not None)

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0
