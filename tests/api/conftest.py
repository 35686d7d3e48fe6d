"""Fixtures for the tests of the API."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.clients import ADMIN, ALICE, BOB, KEYS, Client
from tests.stack import Api, Stack


@pytest.fixture(scope="session")
def api(null: Stack) -> Api:
    return null.api


@pytest.fixture(scope="session")
def other_api(null: Stack, api: Api) -> Api:
    """A second API process of the same service."""
    return null.start_api()


@pytest.fixture(scope="session")
def finished(api: Api) -> dict[str, Any]:
    """A job with two images."""
    answer = api.post("/api/txt2img", {"prompt": "x", "num_images": 2, "seed": 7})
    assert answer.status_code == 200
    job: dict[str, Any] = answer.json()
    return job


@pytest.fixture(scope="session")
def idle(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API without a worker: accepted jobs stay queued."""
    with Stack(redis_url, tmp_path_factory.mktemp("idle"), SD_BACKENDS="null,sd", SD_MAX_QUEUED_JOBS="100") as stack:
        stack.start_api()
        yield stack


@pytest.fixture(scope="session")
def keyed(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service with API keys."""
    folder = tmp_path_factory.mktemp("keyed")
    with Stack(redis_url, folder, SD_BACKENDS="null", SD_API_KEY=KEYS) as stack:
        stack.start_worker("null")
        stack.start_api()
        yield stack


@pytest.fixture(scope="session")
def alice(keyed: Stack) -> Client:
    return Client(keyed.api, ALICE)


@pytest.fixture(scope="session")
def bob(keyed: Stack) -> Client:
    return Client(keyed.api, BOB)


@pytest.fixture(scope="session")
def admin(keyed: Stack) -> Client:
    return Client(keyed.api, ADMIN)


@pytest.fixture(scope="session")
def stranger(keyed: Stack) -> Client:
    return Client(keyed.api, None)


def image_file(stack: Stack, job_id: str, index: int = 0) -> Path:
    (path,) = stack.find(f"{job_id}-{index}.*")
    return path
