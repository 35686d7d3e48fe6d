"""The two commands that start a worker: our own, and Celery's, which takes more memory."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import Stack
from tests.support.process import Process
from tests.worker.new_jobs import run_job, simulated
from tests.worker.worker_records import only_worker


@pytest.fixture
def by_celery(stack: Stack) -> Process:
    options = ["--hostname", "mine@%h", "--without-gossip", "--without-mingle"]
    worker = stack.run([sys.executable, "-m", "celery", "-A", "worker.main", "worker", *options], SD_BACKEND="null")
    stack.workers.append(worker)
    worker.wait_for("ready.")
    return worker


def test_a_worker_that_celery_starts_makes_images_and_ends_in_order(stack: Stack, by_celery: Process) -> None:
    stack.start_api(SD_BACKENDS="null")

    job = run_job(stack, **simulated(seconds=0))

    assert job["state"] == "succeeded"
    by_celery.send(signal.SIGTERM)
    assert by_celery.wait() == 0


def test_a_worker_started_without_a_name_gets_the_one_that_celery_gives(stack: Stack) -> None:
    worker = stack.run([sys.executable, "-m", "worker.main"], SD_BACKEND="null")

    worker.wait_for("celery@", "ready.")


def test_a_worker_that_cannot_store_images_does_not_start(stack: Stack) -> None:
    """It would take jobs from workers that can, and fail each."""
    worker = stack.run([sys.executable, "-m", "worker.main"], SD_BACKEND="null", SD_OUTPUT_DIR="/dev/null/outputs")

    assert worker.wait() == 1
    assert worker.output.startswith("SD_OUTPUT_DIR=/dev/null/outputs cannot be used (Not a directory)")


def test_a_name_is_completed_by_the_host(stack: Stack) -> None:
    stack.start_api(SD_BACKENDS="null")
    stack.start_worker("null", name="mine")

    record = only_worker(stack)
    assert record is not None
    assert record.name.startswith("mine@")


def test_a_worker_imports_no_command_line_no_http_no_metrics_of_redis_and_no_formats_that_it_does_not_use(
    tmp_path: Path,
) -> None:
    unneeded = (
        "celery.bin",
        "requests",
        "opentelemetry.sdk.metrics",
        "flower",
        "yaml",
        "msgpack",
        "pydantic_settings",
        "logging.config",
    )
    modules = "shared.redis.celery_formats, celery.apps.worker, worker.app"
    code = f"import sys, {modules}; print(sorted(sys.modules.keys() & set({unneeded!r})))"

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
