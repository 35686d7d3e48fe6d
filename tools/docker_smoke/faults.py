"""What the running stack is put through."""

import http.client
import json
import time
from typing import Any

from tools.docker_smoke.checks import check, inspect, run, timed, until
from tools.docker_smoke.stack import GRACE_SECONDS, Stack, call, sd_workers, told

#: Longer than the grace, on the fastest of machines: some ten seconds on two cores of their own.
LONG = {"prompt": "a red heart on a blue background", "num_inference_steps": 150, "num_images": 4}


def deaths(stack: Stack) -> str:
    job, worker = in_the_middle()
    run("docker", "kill", worker)
    survives(job, "docker kill of the worker in the middle of a job: another one finishes it")
    run("docker", "start", worker)
    stack.serves(2)
    job, worker = in_the_middle()
    spent = timed(lambda: run("docker", "stop", "--time", inspect(worker, ".Config.StopTimeout"), worker))
    check(inspect(worker, ".State.ExitCode") == "0", "docker stop in the middle of a job: the worker exits with 0")
    check(spent < GRACE_SECONDS + 10, f"within its grace of {GRACE_SECONDS} s and some", f"{spent:.1f} s")
    survives(job, "the job that it put back is finished by another one")
    return job


def changes(stack: Stack) -> None:
    """What operators do: change .env, restart the service that they know."""
    stack.configure(SD_MODEL_ID="/app/models/none")
    restart = ("restart", "stable-diffusion")
    stack.compose(*restart)
    reason = until("the reason is told", lambda: health().get("reasons", {}).get("sd"))
    check(
        "SD_MODEL_ID is /app/models/none" in reason,
        "restart: a changed SD_MODEL_ID takes effect, and why it fails is told",
    )
    time.sleep(25)
    starts = max(int(inspect(worker, ".RestartCount")) for worker in stack.containers("worker-sd"))
    check(starts <= 5, "a worker that cannot load its model is started ever more seldom", f"{starts} times in 25 s")
    stack.configure()
    stack.compose(*restart)
    spent = timed(lambda: stack.serves(2))
    check(health()["reasons"] == {}, "restart: changed back, both workers have their model", f"after {spent:.1f} s")


def health() -> dict[str, Any]:
    status, answer = call("GET", "/health")
    return dict(json.loads(answer)) if status == http.client.OK else {}


def restarts(stack: Stack, job: str) -> None:
    spent = timed(lambda: stack.compose("down"))
    check(spent < 60, "the whole stack stops by itself", f"{spent:.1f} s")
    stack.up("stable-diffusion")
    until("the API answers", lambda: call("GET", "/health/live")[0] == http.client.OK or None)
    check(told("GET", f"/api/jobs/{job}")["state"] == "succeeded", "after a new start, jobs and images are still there")
    check(call("GET", f"/api/jobs/{job}/images/0")[0] == http.client.OK, "and so are their images")


def in_the_middle() -> tuple[str, str]:
    """A job that has begun, and the container that works on it."""
    job = told("POST", "/api/jobs", LONG)["id"]

    def at_work() -> tuple[str, str] | None:
        progress = told("GET", f"/api/jobs/{job}")["progress"]
        busy = [worker for worker in sd_workers() if worker["current_job"] == job]
        return (job, busy[0]["name"].partition("@")[2]) if busy and progress else None

    return until("the job has begun", at_work)


def survives(job: str, promise: str) -> None:
    begin = time.monotonic()
    states = ("succeeded", "failed", "cancelled")
    ended = until(promise, lambda: (now := told("GET", f"/api/jobs/{job}"))["state"] in states and now, 600)
    detail = f"{ended['state']} {time.monotonic() - begin:.1f} s later, attempt {ended['attempt']}"
    check(ended["state"] == "succeeded" and ended["attempt"] > 1, promise, detail)
    check(call("GET", f"/api/jobs/{job}/images/0")[0] == http.client.OK, "and its image is there")
