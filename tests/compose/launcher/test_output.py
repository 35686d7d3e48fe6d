"""`imagegen up` keeps its processes running also when nobody reads its output."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import requests

from tests.compose.conftest import STOP_SECONDS
from tests.polling import wait_until
from tests.stack import free_port, socket_folder

Start = Callable[[int], tuple["subprocess.Popen[bytes]", str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a service that prints to a file descriptor; returns its process and its URL."""
    with ExitStack() as stack:

        def started(output: int) -> tuple["subprocess.Popen[bytes]", str]:
            port, sockets = free_port(), stack.enter_context(socket_folder())
            settings = {"SD_PORT": str(port), "SD_FLOWER_PORT": "0", "SD_BACKENDS": "null", "TMPDIR": sockets}
            env = {name: value for name, value in os.environ.items() if not name.startswith("SD_")} | settings
            command = [sys.executable, "-m", "compose.cli.app", "up"]
            process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=output)
            stack.callback(process.wait, STOP_SECONDS)
            stack.callback(process.send_signal, signal.SIGTERM)
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: is_ready(url))
            return process, url

        yield started


def is_ready(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{url}/health/ready", timeout=10).status_code == 200
    return False


def make_images(url: str, count: int) -> None:
    for _ in range(count):
        requests.post(f"{url}/api/txt2img", json={"prompt": "x"}, timeout=30).raise_for_status()


def kill_worker(launcher: int) -> int:
    worker = next(p for p in psutil.Process(launcher).children() if "worker.main" in " ".join(p.cmdline()))
    worker.kill()
    return worker.pid


def has_other_worker(launcher: int, than: int) -> bool:
    children = psutil.Process(launcher).children()
    return any("worker.main" in " ".join(p.cmdline()) for p in children if p.pid != than)


def test_a_full_disk_does_not_stop_the_supervisor(start: Start) -> None:
    with Path("/dev/full").open("wb") as full:
        process, url = start(full.fileno())
    dead = kill_worker(process.pid)

    wait_until(lambda: has_other_worker(process.pid, dead) and is_ready(url))
    make_images(url, 1)


def test_a_reader_that_stops_or_closes_blocks_no_process(start: Start) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    process, url = start(writing)
    os.close(writing)
    # More than the pipe holds.
    make_images(url, 60)
    dead = kill_worker(process.pid)
    wait_until(lambda: has_other_worker(process.pid, dead) and is_ready(url))

    os.close(reading)

    make_images(url, 2)
    assert process.poll() is None
