"""Accepted jobs, and callers that wait for them, survive the end of an API process."""

import hashlib
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import requests

from tests.faults.invariant import Invariant
from tests.faults.service import Service
from tests.stack import Api
from tests.support.polling import wait_until
from tests.support.valkey import Valkey

SECONDS = 2.0


@pytest.fixture(scope="module")
def pair(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    names = ("null-0", "housekeeper", "api-0", "api-1")
    with Service(valkey.url, tmp_path_factory.mktemp("pair"), names) as pair:
        yield pair


@pytest.fixture
def apis(pair: Service) -> Iterator[Service]:
    """Two API processes and one worker."""
    pair.start_missing()
    yield pair
    Invariant(pair).wait_and_check(pair.accepted)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as callers:
        yield callers


def generate(api: Api, key: str) -> requests.Response:
    body = {"prompt": "x", "seed": 1, "label": key, "metadata": {"simulate": {"seconds": SECONDS}}}
    return requests.post(f"{api.url}/api/txt2img", json=body, headers={"Idempotency-Key": key}, timeout=30)


def start_calls(
    callers: ThreadPoolExecutor, apis: Service, count: int
) -> list[tuple[str, "Future[requests.Response]"]]:
    """Waiting calls of the first API, once the second one lists their jobs."""
    first, second = apis.apis
    keys = [str(uuid.uuid4()) for _ in range(count)]
    calls = [(key, callers.submit(generate, first, key)) for key in keys]
    for key in keys:
        wait_until(partial(jobs, second, key))
        apis.accepted.add(jobs(second, key)[0]["id"])
    return calls


def jobs(api: Api, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get("/api/jobs", params={"label": key}).json()["jobs"]
    return found


def test_a_retry_after_a_killed_api_gets_the_job_from_another(apis: Service, callers: ThreadPoolExecutor) -> None:
    (key, call), *_ = start_calls(callers, apis, 1)
    first, second = apis.apis

    first.process.send(signal.SIGKILL)
    with pytest.raises(requests.ConnectionError):
        call.result()
    job = generate(second, key).json()

    image = second.get(f"/api/jobs/{job['id']}/images/0").content
    assert (job["state"], job["attempt"]) == ("succeeded", 1)
    assert hashlib.sha256(image).hexdigest() == job["images"][0]["sha256"]
    assert len(jobs(second, key)) == 1


def test_waiting_callers_get_202_when_the_api_stops(apis: Service, callers: ThreadPoolExecutor) -> None:
    calls = start_calls(callers, apis, 3)
    first, second = apis.apis

    first.process.send(signal.SIGTERM)
    answers = [call.result() for _, call in calls]

    assert {answer.status_code for answer in answers} == {202}
    assert {second.wait_until_done(answer.headers["x-job-id"])["state"] for answer in answers} == {"succeeded"}
    assert first.process.wait() == 0
