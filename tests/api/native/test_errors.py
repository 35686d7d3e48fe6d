"""Every route answers errors in one shape."""

import pytest
import requests

from tests.api.problem import assert_problem
from tests.stack import Api, Stack

UNKNOWN = "/api/jobs/019aaf3e-6a1c-7b61-9c0e-3f1f7d1c2b4a"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/api/txt2img", 422, "invalid-request"),
        ("POST", "/api/jobs", 422, "invalid-request"),
        ("GET", "/api/jobs?limit=0", 422, "invalid-request"),
        ("GET", UNKNOWN, 404, "job-not-found"),
        ("DELETE", UNKNOWN, 404, "job-not-found"),
        ("GET", f"{UNKNOWN}/events", 404, "job-not-found"),
        ("GET", f"{UNKNOWN}/images/0", 404, "job-not-found"),
        ("GET", "/api/nothing", 404, "not-found"),
        ("GET", "/nothing", 404, "not-found"),
    ],
)
def test_every_route_answers_problems_of_one_shape(api: Api, method: str, path: str, status: int, code: str) -> None:
    answer = requests.request(method, api.url + path, json={} if method == "POST" else None, timeout=10)

    assert_problem(answer, status, code)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/jobs", "GET, POST"),
        ("GET", "/api/txt2img", "POST"),
        ("POST", UNKNOWN, "DELETE, GET"),
        ("DELETE", f"{UNKNOWN}/events", "GET"),
        ("POST", f"{UNKNOWN}/images/0", "GET, HEAD"),
        ("OPTIONS", "/api/jobs", "GET, POST"),
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/api/backends", "GET"),
        ("PATCH", "/info", "GET"),
    ],
)
def test_405_names_every_allowed_method(api: Api, method: str, path: str, allowed: str) -> None:
    answer = requests.request(method, api.url + path, json={}, timeout=10)

    assert_problem(answer, 405, "method-not-allowed")
    assert sorted(answer.headers["allow"].split(", ")) == allowed.split(", ")


@pytest.mark.parametrize(
    "garbage", ["a" * 20_000, "..%2f..%2fetc%2fpasswd", "x%00y", "%ff%fe", "%F0%9F", "*", "job:*", "%0d%0aSet-Cookie:x"]
)
@pytest.mark.parametrize("end", ["", "/events", "/images/0"])
def test_garbage_as_a_job_id_is_not_found(api: Api, garbage: str, end: str) -> None:
    answer = api.get(f"/api/jobs/{garbage}{end}")

    assert_problem(answer, 404, answer.json()["code"])
    assert "passwd" not in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_head_answers_like_get_without_a_body(api: Api, path: str) -> None:
    answer = api.http.head(api.url + path, timeout=10)

    assert (answer.status_code, answer.content) == (200, b"")


def test_the_null_backend_must_be_enabled(redis_url: str, stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="sd")

    answer = api.post("/api/jobs", {"prompt": "x", "backend": "null"})

    assert_problem(answer, 503, "backend-unavailable")


def test_a_backend_without_workers_is_unavailable(api: Api) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", "backend": "flux-local"})

    assert_problem(answer, 503, "backend-unavailable")
    assert answer.json()["retryable"]
