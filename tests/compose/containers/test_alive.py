import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import Stack, free_port
from tests.support.polling import wait_until
from tests.support.process import Process

#: CPU time, which other processes on this machine do not change.
MAX_CPU_SECONDS = 0.1


def alive(file: Path | str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "worker.alive"]
    env = {**os.environ, "SD_ALIVE_FILE": str(file)}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_responding_servers_are_healthy(null: Stack, tmp_path: Path) -> None:
    port = null.api.url.rpartition(":")[2]
    checks = [[port, "/health/live"], [port, "/nothing"], [str(free_port()), "/"]]
    processes = [Process([sys.executable, "-m", "shared.net.healthcheck", *check], tmp_path) for check in checks]

    assert [process.wait() for process in processes] == [0, 1, 1]


@pytest.mark.parametrize("backend", ["null", "flux-api", "housekeeper"])
def test_a_worker_is_healthy_while_it_serves(stack: Stack, backend: str, tmp_path: Path) -> None:
    file = tmp_path / "alive"
    stack.settings["SD_ALIVE_FILE"] = str(file)
    assert alive(file).returncode == 1
    if backend == "housekeeper":
        worker = stack.start_housekeeper()
    else:
        worker = stack.start_worker(backend, SD_BFL_API_KEY="a-key")

    wait_until(lambda: alive(file).returncode == 0)
    worker.stop()

    assert alive(file).returncode == 1


def test_work_goes_on_while_the_file_cannot_be_written(stack: Stack, tmp_path: Path) -> None:
    (file := tmp_path / "alive").symlink_to(tmp_path / "missing" / "alive")
    stack.settings["SD_ALIVE_FILE"] = str(file)
    housekeeper = stack.start_housekeeper()

    housekeeper.send(signal.SIGTERM)

    assert housekeeper.wait() == 0, housekeeper.output


def test_a_hanging_worker_is_unhealthy(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    file.touch()
    os.utime(file, (0, 0))

    assert alive(file).returncode == 1
    assert "does not serve" in alive(file).stderr
    assert "SD_ALIVE_FILE is empty" in alive("").stderr


def test_a_probe_takes_less_than_a_tenth_of_a_second_of_cpu_time(tmp_path: Path) -> None:
    (file := tmp_path / "alive").touch()
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert alive(file).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    assert min(spent) < MAX_CPU_SECONDS
