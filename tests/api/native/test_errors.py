"""Every route answers errors in one shape."""

from typing import Any

import pytest
import requests

from tests.api.native.test_purge import generated
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
        ("PUT", "/api/jobs", "GET, HEAD, OPTIONS, POST"),
        ("GET", "/api/txt2img", "OPTIONS, POST"),
        ("POST", UNKNOWN, "DELETE, GET, HEAD, OPTIONS"),
        ("DELETE", f"{UNKNOWN}/events", "GET, OPTIONS"),
        ("POST", f"{UNKNOWN}/images/0", "GET, HEAD, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("POST", "/api/backends", "GET, HEAD, OPTIONS"),
        ("PATCH", "/info", "GET, HEAD, OPTIONS"),
    ],
)
def test_405_names_every_allowed_method(api: Api, method: str, path: str, allowed: str) -> None:
    answer = requests.request(method, api.url + path, json={}, timeout=10)

    assert_problem(answer, 405, "method-not-allowed")
    assert sorted(answer.headers["allow"].split(", ")) == allowed.split(", ")


def test_options_names_every_allowed_method_because_clients_ask_for_it_to_test_a_connection(api: Api) -> None:
    answer = requests.options(f"{api.url}/v1/images/generations", timeout=10)

    assert (answer.status_code, answer.content) == (204, b"")
    assert sorted(answer.headers["allow"].split(", ")) == ["OPTIONS", "POST"]
    assert_problem(requests.options(f"{api.url}/nothing", timeout=10), 404, "not-found")


@pytest.mark.parametrize(
    "garbage", ["a" * 20_000, "..%2f..%2fetc%2fpasswd", "x%00y", "%ff%fe", "%F0%9F", "*", "job:*", "%0d%0aSet-Cookie:x"]
)
@pytest.mark.parametrize("end", ["", "/events", "/images/0"])
def test_garbage_as_a_job_id_is_not_found(api: Api, garbage: str, end: str) -> None:
    answer = api.get(f"/api/jobs/{garbage}{end}")

    assert_problem(answer, 404, answer.json()["code"])
    assert "passwd" not in answer.text
    assert "set-cookie" not in answer.headers


def test_head_answers_like_get_without_a_body(api: Api, finished: dict[str, Any]) -> None:
    inline = generated(api, response_format="b64_json")
    paths = [f"/api/jobs/{inline['id']}", f"/v1/predictions/{finished['id']}", f"/api/images.zip?job={finished['id']}"]

    for path in ("/health", "/api/jobs", "/v1/models", "/api/jobs/unknown", *paths):
        head, get = api.http.head(api.url + path, timeout=5), api.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        # The length of the archive is unknown before it is sent.
        for answer in (head, get):
            answer.headers.pop("transfer-encoding", None)
            del answer.headers["date"]
        assert head.headers == get.headers


def test_the_null_backend_must_be_enabled(redis_url: str, stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="sd")

    answer = api.post("/api/jobs", {"prompt": "x", "backend": "null"})

    assert_problem(answer, 503, "backend-unavailable")


def test_a_backend_without_workers_is_unavailable(api: Api) -> None:
    answer = api.post("/api/jobs", {"prompt": "x", "backend": "flux-local"})

    assert_problem(answer, 503, "backend-unavailable")
    assert answer.json()["retryable"]
