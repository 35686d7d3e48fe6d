"""Breaks the running stack: kills workers, changes settings, restarts everything."""

import http.client
import json
import time
from typing import Any

from tools.docker_smoke.checks import check, inspect, run, timed, wait_for
from tools.docker_smoke.stack import GRACE_SECONDS, Stack, call, get_json, sd_workers

#: Takes longer than the grace period on any machine: about ten seconds on two cores.
LONG = {"prompt": "a red heart on a blue background", "num_inference_steps": 150, "num_images": 4}


def kill_workers(stack: Stack) -> str:
    job, worker = running_job()
    run("docker", "kill", worker)
    check_survival(job, "docker kill of the worker in the middle of a job: another one finishes it")
    run("docker", "start", worker)
    stack.wait_for_workers(2)
    job, worker = running_job()
    seconds = timed(lambda: run("docker", "stop", "--time", inspect(worker, ".Config.StopTimeout"), worker))
    check(inspect(worker, ".State.ExitCode") == "0", "docker stop in the middle of a job: the worker exits with 0")
    check(
        seconds < GRACE_SECONDS + 10, f"within its grace period of {GRACE_SECONDS} s and a margin", f"{seconds:.1f} s"
    )
    check_survival(job, "another worker finishes the requeued job")
    return job


def change_settings(stack: Stack) -> None:
    """Does what operators do: changes .env and restarts the API."""
    stack.configure(SD_MODEL_ID="/app/models/none")
    restart = ("restart", "stable-diffusion")
    stack.compose(*restart)
    reason = wait_for("the reason is reported", lambda: health().get("reasons", {}).get("sd"))
    check(
        "SD_MODEL_ID is /app/models/none" in reason,
        "restart: a changed SD_MODEL_ID takes effect, and /health reports why it fails",
    )
    time.sleep(25)
    starts = max(int(inspect(worker, ".RestartCount")) for worker in stack.containers("worker-sd"))
    check(starts <= 5, "a worker that cannot load its model restarts with growing delays", f"{starts} times in 25 s")
    stack.configure()
    stack.compose(*restart)
    seconds = timed(lambda: stack.wait_for_workers(2))
    check(health()["reasons"] == {}, "restart: changed back, both workers load their model", f"after {seconds:.1f} s")


def health() -> dict[str, Any]:
    status, content = call("GET", "/health")
    return dict(json.loads(content)) if status == http.client.OK else {}


def restart_stack(stack: Stack, job: str) -> None:
    seconds = timed(lambda: stack.compose("down"))
    check(seconds < 60, "the whole stack stops in time", f"{seconds:.1f} s")
    stack.up("stable-diffusion")
    wait_for("the API responds", lambda: call("GET", "/health/live")[0] == http.client.OK or None)
    check(get_json("GET", f"/api/jobs/{job}")["state"] == "succeeded", "jobs survive a restart of the stack")
    check(call("GET", f"/api/jobs/{job}/images/0")[0] == http.client.OK, "and so do their images")


def running_job() -> tuple[str, str]:
    """A running job, and the container of its worker."""
    job = get_json("POST", "/api/jobs", LONG)["id"]

    def find() -> tuple[str, str] | None:
        progress = get_json("GET", f"/api/jobs/{job}")["progress"]
        busy = [worker for worker in sd_workers() if worker["current_job"] == job]
        return (job, busy[0]["name"].partition("@")[2]) if busy and progress else None

    return wait_for("the job runs", find)


def check_survival(job: str, promise: str) -> None:
    started_at = time.monotonic()
    states = ("succeeded", "failed", "cancelled")
    job_ended = wait_for(promise, lambda: (now := get_json("GET", f"/api/jobs/{job}"))["state"] in states and now, 600)
    detail = f"{job_ended['state']} {time.monotonic() - started_at:.1f} s later, attempt {job_ended['attempt']}"
    check(job_ended["state"] == "succeeded" and job_ended["attempt"] > 1, promise, detail)
    check(call("GET", f"/api/jobs/{job}/images/0")[0] == http.client.OK, "and its image exists")
