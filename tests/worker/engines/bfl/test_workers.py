"""Cloud jobs with real processes: the API, workers and the housekeeper.

Tests that kill workers come last: slots and heartbeats of killed workers expire only later.
"""

import base64
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.api.problem import assert_problem
from tests.compose.conftest import Launched
from tests.stack import Api, Stack
from tests.support.process import Process
from tests.worker.engines.bfl.conftest import cloud_settings
from tests.worker.engines.bfl.provider import KEY, Provider, ReceivedRequest, Reply, image, refused, state
from tests.worker.new_jobs import get_job, submit_job
from tests.worker.worker_records import only_worker

PROMPT = {"prompt": "a cat", "seed": 7}


@pytest.fixture(scope="module")
def installation(
    running_provider: Provider, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    with Stack(redis_url, tmp_path_factory.mktemp("workers"), **cloud_settings(running_provider)) as stack:
        stack.start_api()
        yield stack


@pytest.fixture
def shared(installation: Stack, bfl: Provider) -> Iterator[Stack]:
    """The API is the same for all tests; each starts its own workers, which end with it."""
    yield installation
    for worker in installation.workers:
        worker.stop()
    installation.workers.clear()


@pytest.fixture
def served(shared: Stack) -> Stack:
    shared.start_worker("flux-api")
    return shared


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def shown(api: Api) -> dict[str, Any]:
    (view,) = [backend for backend in api.get("/api/backends").json()["backends"] if backend["name"] == "flux-api"]
    found: dict[str, Any] = view
    return found


def test_a_job_that_takes_too_long_fails(shared: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    shared.start_worker("flux-api", SD_JOB_TIMEOUT_SECONDS="1")

    assert_problem(shared.api.post("/api/txt2img", PROMPT), 504, "timed-out")


class Crowd:
    """Counts the tasks that are in flight; each takes a few polls."""

    def __init__(self, bfl: Provider) -> None:
        self._bfl = bfl
        self._left: dict[str, int] = {}
        self.most = 0
        bfl.submits, bfl.polls = [self._accept], [self._poll]

    def _accept(self, request: ReceivedRequest) -> Reply:
        reply = self._bfl.accept(request)
        self._left[reply.body["polling_url"].partition("=")[2]] = 2
        self.most = max(self.most, len(self._left))
        return reply

    def _poll(self, request: ReceivedRequest) -> Reply:
        task = request.path.partition("=")[2]
        self._left[task] -= 1
        if self._left[task]:
            return state("Pending")
        del self._left[task]
        return self._bfl.ready()(request)


@pytest.mark.parametrize("most", [1, 3])
def test_the_concurrency_limit_applies_to_all_workers_together(shared: Stack, bfl: Provider, most: int) -> None:
    crowd = Crowd(bfl)
    limit = {"SD_BFL_CONCURRENCY": str(most)}
    for worker in [shared.start_worker("flux-api", ready=False, **limit) for _ in range(2)]:
        worker.wait_for("ready.")

    jobs = [submit_job(shared, **PROMPT) for _ in range(2 * most + 2)]

    done = [shared.api.wait_until_done(job_id) for job_id in jobs]
    assert {job["state"] for job in done} == {"succeeded"}
    assert crowd.most == most
    assert len(bfl.posts) == len(jobs)


def test_a_worker_finishes_its_jobs_on_sigterm(served: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending"), state("Pending"), state("Pending"), bfl.ready()]
    job_id = submit_job(served, **PROMPT)
    wait_for(lambda: bfl.count("/v1/get_result") > 0)

    served.worker.send(signal.SIGTERM)

    assert served.worker.wait() == 0
    assert get_job(served, job_id)["state"] == "succeeded"
    assert only_worker(served) is None


def test_a_worker_without_a_grace_period_requeues_its_jobs(shared: Stack, bfl: Provider) -> None:
    bfl.polls = [state("Pending")]
    worker = shared.start_worker("flux-api", SD_SHUTDOWN_GRACE_SECONDS="0")
    job_id = submit_job(shared, **PROMPT, image=base64.b64encode(image()).decode())
    wait_for(lambda: bfl.count("/v1/get_result") > 0)

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0
    assert get_job(shared, job_id)["state"] == "queued"
    # What was bought is to be had, whatever became of what it was made from.
    shutil.rmtree(shared.outputs / "inputs")
    bfl.polls = [bfl.ready()]
    shared.start_worker("flux-api")
    job = shared.api.wait_until_done(job_id)
    assert (job["state"], job["attempt"], len(bfl.posts)) == ("succeeded", 2, 1)


def test_a_worker_waits_for_the_response_to_a_submit_before_it_ends(shared: Stack, bfl: Provider) -> None:
    accept = bfl.accept

    def slowly(request: ReceivedRequest) -> Reply:
        time.sleep(1.5)
        return accept(request)

    bfl.submits = [slowly]
    worker = shared.start_worker("flux-api", SD_SHUTDOWN_GRACE_SECONDS="0")
    job_id = submit_job(shared, **PROMPT)
    wait_for(lambda: len(bfl.posts) == 1)

    worker.send(signal.SIGTERM)

    assert worker.wait() == 0
    shared.start_worker("flux-api")
    assert shared.api.wait_until_done(job_id)["state"] == "succeeded"
    assert len(bfl.posts) == 1


def test_the_task_of_a_killed_worker_is_polled_by_the_next_and_submitted_once(served: Stack, bfl: Provider) -> None:
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


def test_a_job_whose_worker_is_killed_during_the_submit_is_not_submitted_again(served: Stack, bfl: Provider) -> None:
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


def everything_in(redis_url: str) -> str:
    client = redis.Redis.from_url(redis_url)
    try:
        return "".join(repr(client.dump(key)) + repr(key) for key in client.scan_iter())
    finally:
        client.close()


def test_the_key_is_in_no_log_no_record_and_no_response(cloud: Stack, bfl: Provider, redis_url: str) -> None:
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
    assert all("x-key" not in request.headers for request in bfl.requests if request.path.startswith("/image"))


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


def test_unsupported_requests_are_refused_before_any_worker_has_started(cloud: Stack, bfl: Provider) -> None:
    api = cloud.start_api()

    answer = api.post("/api/jobs", {**PROMPT, "bfl_model": "flux-dev", "width": 200, "guidance_scale": 9})

    assert_problem(answer, 422, "invalid-request")
    assert [field["pointer"] for field in answer.json()["errors"]] == ["/width", "/guidance_scale"]
    assert shown(api)["status"] == "offline"
    assert bfl.posts == []


def test_one_command_starts_the_backend(tmp_path: Path, bfl: Provider) -> None:
    cloud = {"SD_BACKENDS": "null,flux-api", "SD_BFL_API_KEY": KEY, "SD_BFL_BASE_URL": bfl.api_url}
    with Launched(tmp_path, SD_FLOWER_PORT="0", **cloud) as launched:
        job = launched.is_ready().generate().json()

        assert (job["backend"], job["state"]) == ("flux-api", "succeeded")
    assert KEY not in launched.launcher.output


def test_one_command_without_a_key_says_what_is_missing(tmp_path: Path) -> None:
    with Launched(tmp_path, SD_FLOWER_PORT="0", SD_BACKENDS="flux-api") as launched:
        assert launched.launcher.wait(30) == 1

    assert "SD_BFL_API_KEY is empty" in launched.launcher.output


def test_a_backend_that_lost_its_key_accepts_no_jobs(cloud: Stack) -> None:
    cloud.start_worker("flux-api").stop()
    api = cloud.start_api(SD_BFL_API_KEY="")

    assert shown(api)["status"] == "unconfigured"
    assert_problem(api.post("/api/jobs", {**PROMPT, "backend": "flux-api"}), 503, "backend-unavailable")
