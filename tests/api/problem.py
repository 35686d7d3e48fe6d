"""Checks error answers, which all have one shape."""

import requests

MAX_BYTES = 2048


def assert_problem(answer: requests.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert len(answer.content) < MAX_BYTES
    problem = answer.json()
    members = ["type", "title", "status", "detail", "code", "retryable", "errors"]
    # Only of a job that is not finished, or was perhaps accepted.
    named = ["job_id"] if code in ("store-unavailable", "not-finished") and "job_id" in problem else []
    assert list(problem) == members + named
    assert not named or problem["job_id"] == answer.headers["x-job-id"]
    assert problem["type"] == f"urn:imagegen:problem:{code}"
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["title"]
    assert problem["detail"].endswith((".", "what."))
    assert all(list(error) == ["pointer", "detail"] for error in problem["errors"])
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def pointers(answer: requests.Response) -> list[str]:
    return [error["pointer"] for error in answer.json()["errors"]]
