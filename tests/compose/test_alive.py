import sys
from pathlib import Path

from compose.launcher import REDIS_URL_FILE
from tests.compose.conftest import Launched
from tests.stack import Process, free_port


def alive(service: Launched, *name: str, backend: str = "null") -> Process:
    url = (service.folder / "data" / REDIS_URL_FILE).read_text()
    command = [sys.executable, "-m", "worker.alive", *name]
    return Process(command, service.folder, SD_REDIS_URL=url, SD_BACKEND=backend)


def test_servers_that_answer_are_healthy(service: Launched, tmp_path: Path) -> None:
    checks = [[str(service.port), "/health/live"], [str(service.flower_port), "/healthcheck"], [str(free_port()), "/"]]
    processes = [Process([sys.executable, "-m", "shared.answers", *check], tmp_path) for check in checks]

    assert [process.wait() for process in processes] == [0, 0, 1]


def test_nodes_that_serve_are_healthy(service: Launched) -> None:
    nodes = [alive(service)]

    assert [node.wait() for node in nodes] == [0, 0], [node.output for node in nodes]


def test_a_node_that_does_not_answer_or_has_no_redis_is_not(service: Launched) -> None:
    silent = alive(service, backend="sd")
    cut_off = Process([sys.executable, "-m", "worker.alive"], service.folder, SD_REDIS_URL="unix:///no/such/socket")

    assert [silent.wait(), cut_off.wait()] == [1, 1]
    assert "sd@" in silent.output
    assert "Traceback" not in silent.output + cut_off.output
