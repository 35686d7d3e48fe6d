"""`imagegen up` keeps its processes running also when nobody reads its output."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests

from tests.compose.conftest import STOP_SECONDS
from tests.stack import free_port, socket_folder
from tests.support.polling import wait_until

PRINTS = """
import os
from compose.launcher.console import ConsoleOutput
with ConsoleOutput() as console:
    for number in range(500):
        console.print(f"line {number}")
os._exit(0)
"""


@contextmanager
def service_printing_to(output: int, folder: Path) -> Iterator[tuple[psutil.Popen, str]]:
    """The launcher and the URL of the API."""
    port = free_port()
    with socket_folder() as sockets:
        settings = {"SD_PORT": str(port), "SD_FLOWER_PORT": "0", "SD_BACKENDS": "null", "TMPDIR": sockets}
        env = {name: value for name, value in os.environ.items() if not name.startswith("SD_")} | settings
        command = [sys.executable, "-m", "compose.cli.app", "up"]
        launcher = psutil.Popen(command, cwd=folder, env=env, stdout=output, stderr=output)
        try:
            wait_until(lambda: is_ready(f"http://127.0.0.1:{port}"))
            yield launcher, f"http://127.0.0.1:{port}"
        finally:
            launcher.send_signal(signal.SIGTERM)
            launcher.wait(STOP_SECONDS)


def is_ready(url: str) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(f"{url}/health/ready", timeout=10).status_code == 200
    return False


def make_images(url: str, count: int) -> None:
    for _ in range(count):
        requests.post(f"{url}/api/txt2img", json={"prompt": "x"}, timeout=30).raise_for_status()


def workers(launcher: psutil.Process) -> list[psutil.Process]:
    """Without those that have ended."""
    found = []
    for process in launcher.children():
        with suppress(psutil.NoSuchProcess):
            if "worker.main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_full_disk_loses_only_the_output(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS], stdout=full, cwd=tmp_path, timeout=30, check=False)

    assert done.returncode == 0


def test_a_reader_that_stops_or_closes_blocks_no_process(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    with service_printing_to(write_end, tmp_path) as (launcher, url):
        os.close(write_end)
        # More than the pipe holds.
        make_images(url, 60)
        (killed,) = workers(launcher)
        killed.kill()
        wait_until(lambda: workers(launcher) not in ([], [killed]) and is_ready(url))

        os.close(read_end)

        make_images(url, 2)
        assert launcher.poll() is None
