"""A worker's parent process is small, answers while the child works, and ends in order."""

import signal
import sys
from pathlib import Path

import psutil
import pytest

from shared.jobs.types import Backend
from shared.workers.records import WorkerRecord
from tests.conftest import RED_HEART
from tests.stack import Stack
from tests.support.polling import wait_until
from tests.support.process import Process
from tests.worker.new_jobs import child_process, get_job, run_job, simulated, start_job
from tests.worker.worker_records import only_worker, worker_records

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def wait_for_record(stack: Stack, **fields: object) -> WorkerRecord:
    """The record of the only worker, once it has these values."""

    def matches() -> bool:
        record = only_worker(stack)
        return record is not None and all(getattr(record, name) == value for name, value in fields.items())

    wait_until(matches, lambda: only_worker(stack))
    record = only_worker(stack)
    assert record is not None
    return record


@ONLY_LINUX
def test_the_parent_loads_no_model_library(cold: Process) -> None:
    assert "libtorch" in Path(f"/proc/{child_process(cold).pid}/maps").read_text()
    assert "libtorch" not in Path(f"/proc/{cold.pid}/maps").read_text()


def test_the_parent_takes_about_a_hundred_megabytes(cold: Process) -> None:
    # 88 MB with Python 3.11, 101 with 3.14.
    assert psutil.Process(cold.pid).memory_info().rss < 105e6


@ONLY_LINUX
def test_a_worker_reports_its_device_memory_and_the_duration_of_a_step(sd: Stack) -> None:
    job = run_job(sd, **RED_HEART, num_inference_steps=4)

    record = only_worker(sd)
    assert record is not None
    assert record.memory is not None
    assert 0 < record.memory.used_bytes < record.memory.size_bytes
    # The API may have read the record shortly before that, and keeps it for a moment.
    size = 'imagegen_device_memory_size_bytes{backend="sd",device="cpu",worker="0"}'
    wait_until(lambda: size in sd.api.get("/metrics").text)
    timings, steps = job["timings"], job["request"]["num_inference_steps"]
    assert 0 < timings["step_ms"] * steps < timings["generate_ms"]


def test_the_parent_answers_while_a_job_renders(null: Stack) -> None:
    job_id = start_job(null, **simulated(seconds=60))

    ping = null.run([sys.executable, "-m", "celery", "-A", "worker.main", "inspect", "ping"], SD_BACKEND="null")

    assert ping.wait() == 0
    assert "pong" in ping.output
    assert get_job(null, job_id)["state"] == "running"
    null.api.delete(f"/api/jobs/{job_id}")


def test_a_worker_reports_whether_it_is_ready_and_which_job_it_runs(null: Stack) -> None:
    record = wait_for_record(null, state="ready", current_job=None)
    assert (record.model, record.device) == ("null", "none")

    job_id = start_job(null, **simulated(seconds=60))

    wait_for_record(null, state="busy", current_job=job_id)
    null.api.delete(f"/api/jobs/{job_id}")
    wait_for_record(null, state="ready", current_job=None)


def test_a_worker_finishes_its_job_before_it_ends_and_removes_its_record(stack: Stack) -> None:
    stack.start_worker("null")
    stack.start_api(SD_BACKENDS="null")
    job_id = start_job(stack, **simulated(seconds=2))

    stack.worker.send(signal.SIGTERM)

    assert stack.worker.wait() == 0
    assert get_job(stack, job_id)["state"] == "succeeded"
    assert worker_records(stack) == ()


def test_a_stopping_worker_that_is_interrupted_requeues_its_job_at_once(stack: Stack) -> None:
    stack.start_worker("null")
    stack.start_api(SD_BACKENDS="null")
    job_id = start_job(stack, **simulated(seconds=60))
    stack.worker.send(signal.SIGTERM)
    stack.worker.wait_for("stopping: running jobs may finish within")

    stack.worker.send(signal.SIGINT)

    assert stack.worker.wait(20) == 0
    assert get_job(stack, job_id)["state"] == "queued"


def test_a_worker_reports_that_it_is_loading_and_can_be_stopped_meanwhile(stack: Stack) -> None:
    stack.warm = False
    worker = stack.start_worker("sd", ready=False)

    record = wait_for_record(stack, state="loading")
    worker.send(signal.SIGTERM)

    assert (record.backend, record.model, record.device) == (Backend.SD, "starter", None)
    assert worker.wait() == 0
    assert "ready." not in worker.output
