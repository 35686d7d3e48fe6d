"""The time from the start of an API to its first response."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import requests

from bench.figures import Figure, Goal, Scale
from bench.service import VALKEY
from tests.stack import Stack, free_port, valkey_server
from tests.support.process import Process


def measure(scale: Scale) -> Iterator[Figure]:
    rounds = []
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as name, valkey_server(Path(name), *VALKEY) as url:
        for number in range(1, scale.rounds + 1):
            scale.show_progress(f"API start: round {number} of {scale.rounds}")
            with Stack(url, Path(name)) as stack:
                port = free_port()
                begin = time.perf_counter()
                process = stack.run([sys.executable, "-m", "api.main"], SD_PORT=str(port))
                _wait_for_response(f"http://127.0.0.1:{port}/health/live", process)
                rounds.append(time.perf_counter() - begin)
    yield Figure("API start to first answer", sorted(rounds)[len(rounds) // 2], "s", Goal(1.5), tuple(rounds))


def _wait_for_response(url: str, process: Process) -> None:
    while process.is_running:
        with suppress(requests.ConnectionError):
            requests.get(url, timeout=5).raise_for_status()
            return
        time.sleep(0.01)
    raise AssertionError(process.output)
