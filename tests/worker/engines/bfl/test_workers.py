"""Jobs of the cloud through real processes: the API, workers on threads, the housekeeper."""

import base64
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.api.problem import assert_problem
from tests.compose.conftest import Launched
from tests.stack import Api, Process, Stack
from tests.worker.engines.bfl.provider import KEY, Asked, Provider, Reply, image, refused, state
from tests.worker.new_jobs import get_job, submit_job
from tests.worker.worker_records import only_worker

PROMPT = {"prompt": "a cat", "seed": 7}


@pytest.fixture
def served(cloud: Stack) -> Stack:
    cloud.start_worker("flux-api")
    cloud.start_api()
    return cloud


def wait_for(told: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def shown(api: Api) -> dict[str, Any]:
    (view,) = [backend for backend in api.get("/api/backends").json()["backends"] if backend["name"] == "flux-api"]
    found: dict[str, Any] = view
    return found


def test_a_job_whose_worker_is_killed_is_asked_after_by_the_next_and_posted_once(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    served.start_housekeeper()
    job_id = submit_job(served, **PROMPT)
    wait_for(lambda: bfl.count("/v1/get_result") > 0)

    served.worker.send(signal.SIGKILL)
    bfl.polls = [bfl.ready()]
    served.start_worker("flux-api")

    job = served.api.wait_until_done(job_id)
    assert (job["state"], job["attempt"]) == ("succeeded", 2)
    assert job["providers"] == [{"id": "task-1", "cost": 3.0}]
    assert len(bfl.posts) == 1


def test_a_job_whose_worker_is_killed_while_it_posts_is_not_posted_again(served: Stack, bfl: Provider) -> None:
    bfl.submits = [Reply(seconds=5, body={})]
    served.start_housekeeper()
    job_id = submit_job(served, **PROMPT)
    wait_for(lambda: len(bfl.posts) == 1)

    served.worker.send(signal.SIGKILL)
    served.start_worker("flux-api")

    error = served.api.wait_until_done(job_id)["error"]
    assert (error["code"], error["retryable"]) == ("upstream-unavailable", False)
    assert "may have charged" in error["detail"]
    assert len(bfl.posts) == 1


def test_a_job_that_takes_too_long_is_given_up(cloud: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    cloud.settings["SD_JOB_TIMEOUT_SECONDS"] = "1"
    cloud.start_worker("flux-api")
    cloud.start_api()

    assert_problem(cloud.api.post("/api/txt2img", PROMPT), 504, "timed-out")


class Crowd:
    """Counts the tasks that are in flight; each takes a few polls."""

    def __init__(self, bfl: Provider) -> None:
        self._bfl = bfl
        self._left: dict[str, int] = {}
        self.most = 0
        bfl.submits, bfl.polls = [self._accept], [self._poll]

    def _accept(self, asked: Asked) -> Reply:
        reply = self._bfl.accept(asked)
        self._left[reply.body["polling_url"].partition("=")[2]] = 2
        self.most = max(self.most, len(self._left))
        return reply

    def _poll(self, asked: Asked) -> Reply:
        task = asked.path.partition("=")[2]
        self._left[task] -= 1
        if self._left[task]:
            return state("Pending")
        del self._left[task]
        return self._bfl.ready()(asked)


@pytest.mark.parametrize("most", [1, 3])
def test_all_workers_together_run_so_many_jobs(cloud: Stack, bfl: Provider, most: int) -> None:
    crowd = Crowd(bfl)
    cloud.settings["SD_BFL_CONCURRENCY"] = str(most)
    for worker in [cloud.start_worker("flux-api", ready=False) for _ in range(2)]:
        worker.wait_for("ready.")
    cloud.start_api()

    jobs = [submit_job(cloud, **PROMPT) for _ in range(2 * most + 2)]

    done = [cloud.api.wait_until_done(job_id) for job_id in jobs]
    assert {job["state"] for job in done} == {"succeeded"}
    assert crowd.most == most
    assert len(bfl.posts) == len(jobs)


def test_a_worker_that_is_asked_to_end_finishes_its_jobs(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending"), state("Pending"), state("Pending"), bfl.ready()]
    job_id = submit_job(served, **PROMPT)
    wait_for(lambda: bfl.count("/v1/get_result") > 0)

    served.worker.send(signal.SIGTERM)

    assert served.worker.wait() == 0
    assert get_job(served, job_id)["state"] == "succeeded"
    assert only_worker(served) is None


def test_a_worker_that_may_not_finish_hands_its_jobs_back(cloud: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    cloud.settings["SD_SHUTDOWN_GRACE_SECONDS"] = "0"
    worker = cloud.start_worker("flux-api")
    cloud.start_api()
    job_id = submit_job(cloud, **PROMPT, image=base64.b64encode(image()).decode())
    wait_for(lambda: bfl.count("/v1/get_result") > 0)

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0
    assert get_job(cloud, job_id)["state"] == "queued"
    # What was bought is to be had, whatever became of what it was made from.
    shutil.rmtree(cloud.outputs / "inputs")
    bfl.polls = [bfl.ready()]
    cloud.start_worker("flux-api")
    job = cloud.api.wait_until_done(job_id)
    assert (job["state"], job["attempt"], len(bfl.posts)) == ("succeeded", 2, 1)


def test_a_worker_that_must_end_while_it_posts_waits_for_the_answer(cloud: Stack, bfl: Provider) -> None:
    accept = bfl.accept

    def slowly(asked: Asked) -> Reply:
        time.sleep(1.5)
        return accept(asked)

    bfl.submits = [slowly]
    cloud.settings["SD_SHUTDOWN_GRACE_SECONDS"] = "0"
    worker = cloud.start_worker("flux-api")
    cloud.start_api()
    job_id = submit_job(cloud, **PROMPT)
    wait_for(lambda: len(bfl.posts) == 1)

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0
    cloud.start_worker("flux-api")
    assert cloud.api.wait_until_done(job_id)["state"] == "succeeded"
    assert len(bfl.posts) == 1


def everything_in(redis_url: str) -> str:
    client = redis.Redis.from_url(redis_url)
    try:
        return "".join(repr(client.dump(key)) + repr(key) for key in client.scan_iter())
    finally:
        client.close()


def test_the_key_is_in_no_log_no_record_and_no_answer(cloud: Stack, bfl: Provider, redis_url: str) -> None:
    cloud.settings["SD_LOG_FORMAT"] = "json"
    cloud.start_worker("flux-api")
    cloud.start_api()
    bfl.submits = [refused(403, f"no such key {KEY}"), Reply(hang_up=True), refused(429), bfl.accept]
    bfl.polls = [refused(500), state("Error", details={"x": KEY}), bfl.ready()]

    answers = [cloud.api.post("/api/txt2img", PROMPT).text for _ in range(4)]

    answers += [cloud.api.get(path).text for path in ("/api/jobs", "/api/backends", "/health", "/info")]
    assert "succeeded" in answers[3]
    for process in (cloud.worker, cloud.api.process):
        assert KEY not in process.output
    assert KEY not in "".join(answers)
    assert KEY not in everything_in(redis_url)
    assert all("x-key" not in asked.headers for asked in bfl.asked if asked.path.startswith("/image"))


def sentences(worker: Process) -> list[str]:
    return [line for line in worker.output.splitlines() if "CRITICAL" in line]


def test_a_worker_without_a_key_ends_with_one_sentence(cloud: Stack) -> None:
    worker = cloud.start_worker("flux-api", ready=False, SD_BFL_API_KEY="")

    assert worker.wait() == 1
    (sentence,) = sentences(worker)
    assert sentence.endswith("SD_BFL_API_KEY is empty: flux-api needs a key from https://dashboard.bfl.ai.")
    assert "Traceback" not in worker.output


def test_without_a_key_it_is_not_configured(cloud: Stack) -> None:
    api = cloud.start_api(SD_BFL_API_KEY="")

    assert shown(api)["status"] == api.get("/health").json()["backends"]["flux-api"] == "unconfigured"
    answer = api.post("/api/jobs", {**PROMPT, "backend": "flux-api"})
    assert_problem(answer, 503, "backend-unavailable")
    assert "SD_BFL_API_KEY" in answer.json()["detail"]


def test_what_a_model_cannot_do_is_refused_before_any_worker_came(cloud: Stack, bfl: Provider) -> None:
    api = cloud.start_api()

    answer = api.post("/api/jobs", {**PROMPT, "bfl_model": "flux-dev", "width": 200, "guidance_scale": 9})

    assert_problem(answer, 422, "invalid-request")
    assert [field["pointer"] for field in answer.json()["errors"]] == ["/width", "/guidance_scale"]
    assert shown(api)["status"] == "offline"
    assert bfl.posts == []


def test_one_command_starts_it(tmp_path: Path, bfl: Provider) -> None:
    cloud = {"SD_BACKENDS": "null,flux-api", "SD_BFL_API_KEY": KEY, "SD_BFL_BASE_URL": bfl.api_url}
    with Launched(tmp_path, SD_FLOWER_PORT="0", **cloud) as launched:
        job = launched.is_ready().generate().json()

        assert (job["backend"], job["state"]) == ("flux-api", "succeeded")
    assert KEY not in launched.launcher.output


def test_one_command_without_a_key_says_what_is_missing(tmp_path: Path) -> None:
    with Launched(tmp_path, SD_FLOWER_PORT="0", SD_BACKENDS="flux-api") as launched:
        assert launched.launcher.wait(30) == 1

    assert "SD_BFL_API_KEY is empty" in launched.launcher.output


def test_a_backend_that_lost_its_key_takes_no_jobs(served: Stack) -> None:
    served.worker.stop()
    api = served.start_api(SD_BFL_API_KEY="")

    assert shown(api)["status"] == "unconfigured"
    assert_problem(api.post("/api/jobs", {**PROMPT, "backend": "flux-api"}), 503, "backend-unavailable")
