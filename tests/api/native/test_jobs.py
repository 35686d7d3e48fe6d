"""/api/jobs: creating and reading jobs, and the order in which they run."""

import time
from typing import Any

from tests.api.problem import assert_problem
from tests.stack import Api, Stack


def submit(api: Api, seconds: float = 0, **fields: Any) -> dict[str, Any]:
    body = {"prompt": "x", "metadata": {"simulate": {"seconds": seconds}}, **fields}
    answer = api.post("/api/jobs", body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def running(api: Api, **fields: Any) -> dict[str, Any]:
    """A running job that takes a while."""
    job = submit(api, **{"seconds": 1.0, **fields})
    with api.events(job["id"]) as events:
        next(event for event in events if event.type == "progress")
    return job


def test_an_accepted_job_has_its_address_in_location(api: Api) -> None:
    answer = api.post("/api/jobs", {"prompt": "x"})

    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == job["links"]["self"] == f"/api/jobs/{job['id']}"
    assert answer.headers["x-job-id"] == job["id"]
    assert api.wait_until_done(job["id"])["state"] == "succeeded"


def test_a_running_job_reports_progress(api: Api) -> None:
    job = running(api, seconds=30, num_inference_steps=100)

    answer = api.get(job["links"]["self"])
    api.delete(job["links"]["self"])

    progress = answer.json()["progress"]
    assert answer.headers["x-job-id"] == job["id"]
    assert 1 <= progress["step"] < progress["steps"] == 100
    assert progress["fraction"] == progress["step"] / 100
    assert 0 < progress["eta_seconds"] <= 45
    assert api.wait_until_done(job["id"])["progress"] is None


def test_queued_jobs_report_their_position(api: Api) -> None:
    busy = running(api, seconds=30, num_inference_steps=100)
    jobs = [submit(api) for _ in range(3)]

    positions = [api.get(job["links"]["self"]).json()["queue_position"] for job in [*jobs, busy]]
    api.delete(busy["links"]["self"])

    assert positions == [0, 1, 2, None]
    assert api.wait_until_done(jobs[2]["id"])["queue_position"] is None


def test_jobs_of_higher_priority_run_first(api: Api) -> None:
    busy = running(api, seconds=30, num_inference_steps=100)
    priorities = ["low", "normal", "high", "low", "normal", "high"]
    # Of different sizes, so that no two are rendered together.
    jobs = [submit(api, priority=priority, width=64 + number) for number, priority in enumerate(priorities)]

    positions = [api.get(job["links"]["self"]).json()["queue_position"] for job in jobs]
    api.delete(busy["links"]["self"])
    ended = [api.wait_until_done(job["id"]) for job in jobs]

    assert positions == [4, 2, 0, 5, 3, 1]
    started = sorted(range(len(ended)), key=lambda number: str(ended[number]["started_at"]))
    assert [positions[number] for number in started] == list(range(len(priorities)))


def test_a_job_not_started_by_its_deadline_fails(api: Api) -> None:
    busy = running(api, seconds=30, num_inference_steps=100)
    job = submit(api, deadline_seconds=1)
    time.sleep(1.1)
    api.delete(busy["links"]["self"])

    ended = api.wait_until_done(job["id"])

    assert (ended["state"], ended["attempt"]) == ("failed", 0)
    assert ended["error"]["code"] == "deadline-passed"


def test_a_deadline_does_not_stop_a_job_that_has_started(api: Api) -> None:
    job = submit(api, seconds=2.3, deadline_seconds=2)

    assert api.wait_until_done(job["id"])["state"] == "succeeded"


def test_a_full_queue_refuses_jobs_until_one_leaves(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null", SD_MAX_QUEUED_JOBS="2")
    first, _ = submit(api), submit(api)

    refused = api.post("/api/jobs", {"prompt": "x"})
    refused_while_waiting = api.post("/api/txt2img", {"prompt": "x"})
    api.delete(first["links"]["self"])

    assert_problem(refused, 429, "queue-full")
    assert_problem(refused_while_waiting, 429, "queue-full")
    assert refused.json()["retryable"]
    assert api.post("/api/jobs", {"prompt": "x"}).status_code == 202
    assert len(api.get("/api/jobs").json()["jobs"]) == 3
