"""/health, /api/backends and /info."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
import requests

from api.models.fleet import FLEET_SECONDS
from shared.jobs.types import Backend
from shared.models.capabilities import Capabilities
from shared.redis.store import Store, connect
from shared.workers.records import WorkerRecord, Workers, WorkerState
from tests.stack import Api, Stack
from tests.support.polling import wait_until

CAPABILITIES = Capabilities(
    model="some-model",
    width=512,
    height=512,
    multiple_of=8,
    min_side=64,
    max_side=1024,
    num_inference_steps=20,
    guidance_scale=7.5,
    schedulers=("ddim", "euler"),
)


@contextmanager
def worker(stack: Stack, backend: Backend, state: WorkerState) -> Iterator[None]:
    """A worker as it registers itself."""
    store, workers = Store(connect(stack.settings["SD_REDIS_URL"])), Workers(stack.prefix)
    now = datetime.now(UTC)
    record = WorkerRecord(
        id="w", name="w", backend=backend, state=state, model="some-model", device="cuda:0", started_at=now
    )
    try:
        store.run(workers.heartbeat(record))
        store.run(workers.set_capabilities(backend, CAPABILITIES))
        yield
    finally:
        store.run(workers.unregister("w"))
        store.client.close()


@pytest.fixture(scope="module")
def workerless(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API for sd without a worker."""
    with Stack(redis_url, tmp_path_factory.mktemp("workerless"), SD_BACKENDS="sd") as stack:
        stack.start_api()
        yield stack


@pytest.fixture
def empty(workerless: Stack) -> Iterator[Stack]:
    """The same, and what a test leaves in Redis is removed after it."""
    yield workerless
    with redis.Redis.from_url(workerless.settings["SD_REDIS_URL"]) as client:
        client.delete(*client.scan_iter(f"{workerless.prefix}*"), "nothing")
    forget_fleet()


def forget_fleet() -> None:
    """Wait until the API no longer answers with the workers that it saw before."""
    time.sleep(FLEET_SECONDS)


def backend(api: Api, name: str) -> dict[str, Any]:
    view: dict[str, Any] = next(
        backend for backend in api.get("/api/backends").json()["backends"] if backend["name"] == name
    )
    return view


def test_a_service_with_a_ready_worker_is_ok(null: Stack, api: Api) -> None:
    # The worker was ready at most a heartbeat and a reading of the fleet ago.
    wait_until(lambda: api.get("/health").json()["backends"]["null"] == "ready")
    health = api.get("/health").json()

    assert (health["status"], health["redis"], health["default_backend"]) == ("ok", True, "null")
    assert health["outputs"]["writable"]
    assert health["outputs"]["free_bytes"] > 0
    assert health["backends"] == {
        "sd": "unconfigured",
        "flux-local": "unconfigured",
        "flux-api": "unconfigured",
        "null": "ready",
    }
    assert api.get("/health/ready").json() == api.get("/health/live").json() == {"status": "ok"}


@pytest.mark.parametrize(("state", "status"), [("ready", 200), ("busy", 200), ("loading", 503)])
def test_a_backend_has_the_state_of_its_worker(empty: Stack, state: str, status: int) -> None:
    with worker(empty, Backend.SD, WorkerState(state)):
        ready = empty.api.get("/health/ready")

        assert backend(empty.api, "sd")["status"] == state
        assert empty.api.get("/health").json()["backends"]["sd"] == state
        assert ready.status_code == status
        assert empty.api.get("/health").json()["status"] == ("ok" if status == 200 else "degraded")


def test_a_backend_without_any_worker_is_offline_and_not_ready(empty: Stack) -> None:
    ready = empty.api.get("/health/ready")

    assert (ready.status_code, ready.json()) == (503, {"status": "offline"})
    assert empty.api.get("/health").json()["status"] == "degraded"
    assert empty.api.get("/health/live").status_code == 200
    assert backend(empty.api, "sd")["capabilities"] is None
    assert backend(empty.api, "flux-local")["status"] == "unconfigured"


def test_a_backend_is_known_after_its_worker_has_left(empty: Stack) -> None:
    with worker(empty, Backend.FLUX_LOCAL, WorkerState.READY):
        pass
    forget_fleet()

    view = backend(empty.api, "flux-local")

    assert (view["status"], view["model"], view["workers"]) == ("offline", "some-model", [])
    assert empty.api.post("/api/jobs", {"prompt": "x", "backend": "flux-local"}).status_code == 202
    assert empty.api.get("/api/jobs?backend=flux-local").json()["jobs"][0]["queue_position"] == 0


def test_a_backend_lists_its_capabilities_and_load(empty: Stack) -> None:
    with worker(empty, Backend.SD, WorkerState.BUSY):
        empty.api.post("/api/jobs", {"prompt": "x"})
        forget_fleet()
        view = backend(empty.api, "sd")

    assert (view["queued"], view["device"], len(view["workers"])) == (1, "cuda:0", 1)
    assert view["capabilities"]["properties"]["scheduler"]["enum"] == ["ddim", "euler", None]
    assert view["capabilities"]["properties"]["width"]["default"] == 512


def test_a_request_beyond_the_capabilities_is_refused_before_it_is_queued(empty: Stack) -> None:
    with worker(empty, Backend.SD, WorkerState.READY):
        answer = empty.api.post("/api/jobs", {"prompt": "x", "width": 68, "height": 2048, "scheduler": "other"})

    assert answer.json()["errors"] == [
        {"pointer": "/width", "detail": "must be a multiple of 8 between 64 and 1024"},
        {"pointer": "/height", "detail": "must be a multiple of 8 between 64 and 1024"},
        {"pointer": "/scheduler", "detail": "must be one of ddim, euler"},
    ]


def test_the_null_backend_is_listed_only_if_enabled(empty: Stack, api: Api) -> None:
    hidden = {backend["name"] for backend in empty.api.get("/api/backends").json()["backends"]}
    shown = {backend["name"] for backend in api.get("/api/backends").json()["backends"]}

    assert hidden == {"sd", "flux-local", "flux-api"}
    assert shown == {"sd", "flux-local", "flux-api", "null"}


def test_info_names_version_models_limits_and_links(api: Api) -> None:
    info = api.get("/info").json()

    assert (info["name"], info["default_backend"], info["models"]) == ("imagegen", "null", {"null": "null"})
    assert info["limits"] == {
        "max_pixels": 4_194_304,
        "max_pixel_steps": 500_000_000,
        "max_images_per_job": 4,
        "max_queued_jobs": 1000,
        "sync_timeout_seconds": 110,
        "job_timeout_seconds": 600,
    }
    assert info["links"]["docs"] == f"{api.url}/docs"
    assert requests.get(info["links"]["openapi"], timeout=10).json()["info"]["version"] == info["version"]


def test_the_operator_chooses_the_default_backend(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null,sd", SD_DEFAULT_BACKEND="sd")

    job = api.post("/api/jobs", {"prompt": "x"}).json()

    assert job["backend"] == api.get("/info").json()["default_backend"] == "sd"


def test_a_missing_output_folder_is_reported(stack: Stack) -> None:
    api = stack.start_api(SD_BACKENDS="null")
    stack.outputs.rmdir()

    assert api.get("/health").json()["outputs"] == {"writable": False, "free_bytes": None}
