"""Helpers to submit, start and run jobs, and to find the process that runs them."""

from typing import Any

import psutil

from tests.stack import Stack
from tests.support.process import Process


def simulated(**simulation: Any) -> dict[str, Any]:
    """A request that steers the null engine; its many steps make it easy to stop."""
    return {"prompt": "x", "num_inference_steps": 100, "metadata": {"simulate": simulation}}


def submit_job(stack: Stack, **request: Any) -> str:
    """Submit a job and return its id."""
    answer = stack.api.post("/api/jobs", request)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def start_job(stack: Stack, **request: Any) -> str:
    """Submit a job, wait for its first step and return its id."""
    job_id = submit_job(stack, **request)
    with stack.api.events(job_id) as events:
        next(event for event in events if event.type == "progress")
    return job_id


def run_job(stack: Stack, **request: Any) -> dict[str, Any]:
    """Submit a job and return it once it has succeeded."""
    answer = stack.api.post("/api/txt2img", request)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    assert job["state"] == "succeeded"
    return job


def get_job(stack: Stack, job_id: str) -> dict[str, Any]:
    """Return the job as it is now."""
    job: dict[str, Any] = stack.api.get(f"/api/jobs/{job_id}").json()
    return job


def image_bytes(stack: Stack, job: dict[str, Any], index: int = 0) -> bytes:
    return stack.api.get(f"/api/jobs/{job['id']}/images/{index}").content


def child_process(worker: Process) -> psutil.Process:
    """Return the process that renders."""
    children = psutil.Process(worker.pid).children()
    (child,) = [child for child in children if not any("tracker" in part for part in child.cmdline())]
    return child
