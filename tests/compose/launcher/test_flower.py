"""The dashboard is read-only, needs its login, and shows no secret."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import requests

from tests.stack import Stack, free_port, valkey_server
from tests.support.polling import wait_until
from tests.support.process import Process

LOGIN = ("somebody", "the-password-of-flower")
REDIS_PASSWORD = "the-password-of-redis"
KEY = "the-key-of-somebody-0123"
CANARY = "canary-2c91e0"
OPEN = ("/healthcheck", "/metrics")
PAGES = ("/", "/workers", "/tasks", "/broker", "/api/tasks", "/api/workers", "/api/queues/length", *OPEN)
#: Every operation of Flower's API.
OPERATIONS = (
    "/api/worker/shutdown/{worker}",
    "/api/worker/pool/restart/{worker}",
    "/api/worker/pool/grow/{worker}",
    "/api/worker/pool/shrink/{worker}",
    "/api/worker/pool/autoscale/{worker}",
    "/api/worker/queue/add-consumer/{worker}",
    "/api/worker/queue/cancel-consumer/{worker}",
    "/api/task/apply/generate",
    "/api/task/async-apply/generate",
    "/api/task/send-task/generate",
    "/api/task/abort/{task}",
    "/api/task/revoke/{task}",
    "/api/task/timeout/generate",
    "/api/task/rate-limit/generate",
)


@dataclass(frozen=True)
class Flower:
    process: Process
    url: str
    job: str
    worker: str

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, auth=LOGIN, timeout=10)

    def json(self, path: str) -> Any:
        return self.get(path).json()


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    """Beside a worker that has generated an image."""
    folder, redis_port, port = tmp_path_factory.mktemp("flower"), free_port(), free_port()
    settings = {
        "SD_BACKENDS": "null",
        "SD_API_KEY": KEY,
        "SD_LOG_FORMAT": "json",
        "SD_FLOWER_PORT": str(port),
        "SD_FLOWER_BASIC_AUTH": ":".join(LOGIN),
    }
    with (
        valkey_server(folder, "--port", str(redis_port), "--requirepass", REDIS_PASSWORD),
        Stack(f"redis://:{REDIS_PASSWORD}@127.0.0.1:{redis_port}/0", folder, **settings) as stack,
    ):
        stack.start_worker("null")
        stack.start_api()
        process = stack.run([sys.executable, "-m", "compose.launcher.flower"])
        process.wait_for("Visit me at")
        url, worker = f"http://127.0.0.1:{port}", f"null-0@{stack.prefix.rstrip(':')}"
        wait_until(lambda: worker in requests.get(f"{url}/api/workers", auth=LOGIN, timeout=10).text)
        body = {"prompt": CANARY, "label": CANARY, "metadata": {"key": CANARY}}
        job = stack.api.post("/api/txt2img", body, headers={"X-API-Key": KEY}).json()["id"]
        wait_until(lambda: requests.get(f"{url}/api/task/info/{job}", auth=LOGIN, timeout=10).status_code == 200)
        yield Flower(process, url, job, worker)


def test_tasks_and_queues_have_readable_names(flower: Flower) -> None:
    task = flower.json("/api/tasks")[flower.job]

    assert (task["name"], task["worker"], task["args"]) == ("generate", flower.worker, f"('{flower.job}',)")
    assert [queue["name"] for queue in flower.json("/api/queues/length")["active_queues"]] == ["generate.null"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_the_login_except_the_probes(flower: Flower, path: str) -> None:
    assert requests.get(flower.url + path, timeout=10).status_code == (200 if path in OPEN else 401)
    assert requests.get(flower.url + path, auth=(LOGIN[0], "x"), timeout=10).status_code == (
        200 if path in OPEN else 401
    )
    assert flower.get(path).status_code == 200


@pytest.mark.parametrize("path", OPERATIONS)
def test_every_operation_is_refused(flower: Flower, path: str) -> None:
    url = flower.url + path.format(worker=flower.worker, task=flower.job)

    assert requests.post(url, auth=LOGIN, json={"args": ["x"]}, timeout=10).status_code == 403


def test_no_page_contains_a_prompt_a_key_or_a_password(flower: Flower) -> None:
    pages = [flower.get(path).text for path in (*PAGES, f"/task/{flower.job}", f"/worker/{flower.worker}")]
    pages += [flower.get("/api/workers?refresh=1").text, flower.process.output]
    command = " ".join(psutil.Process(flower.process.pid).cmdline())

    for secret in (CANARY, KEY, REDIS_PASSWORD, LOGIN[1]):
        assert not [page for page in pages if secret in page]
        assert secret not in command


def test_its_memory_is_bounded(flower: Flower) -> None:
    assert {"--max_tasks=2000", "--max_workers=200"} <= set(psutil.Process(flower.process.pid).cmdline())
    assert psutil.Process(flower.process.pid).memory_info().rss < 80e6


def test_its_log_follows_the_log_format(flower: Flower) -> None:
    assert {json.loads(line)["logger"] for line in flower.process.lines} >= {"flower.command"}
