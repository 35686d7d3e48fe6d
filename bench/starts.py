"""How long it takes until there is somebody who answers, and until there is a picture."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import requests

from bench.figures import Figure, Goal, Scale, compare
from bench.overhead import caller
from bench.service import STARTER_REQUEST, VALKEY, BareScript
from tests.stack import Process, Stack, free_port, valkey_server


def measure(scale: Scale) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as name, valkey_server(Path(name), *VALKEY) as url:
        yield _api(scale, url, Path(name))
        yield _first_picture(scale, url, Path(name))


def _api(scale: Scale, redis_url: str, folder: Path) -> Figure:
    rounds = []
    for number in range(1, scale.rounds + 1):
        scale.say(f"API start: round {number} of {scale.rounds}")
        with Stack(redis_url, folder) as stack:
            port = free_port()
            begin = time.perf_counter()
            process = stack.run([sys.executable, "-m", "api.main"], SD_PORT=str(port))
            _first_answer(f"http://127.0.0.1:{port}/health/live", process)
            rounds.append(time.perf_counter() - begin)
            process.stop()
    return Figure("API start to first answer", sorted(rounds)[len(rounds) // 2], "s", Goal(1.5), tuple(rounds))


def _first_answer(url: str, process: Process) -> None:
    while process.is_running:
        with suppress(requests.ConnectionError):
            requests.get(url, timeout=5).raise_for_status()
            return
        time.sleep(0.01)
    raise AssertionError(process.output)


def _first_picture(scale: Scale, redis_url: str, folder: Path) -> Figure:
    with Stack(redis_url, folder, SD_BACKENDS="sd") as stack:
        ask = caller(stack.start_api(), STARTER_REQUEST)

        def ours() -> float:
            begin = time.perf_counter()
            worker = stack.start_worker("sd", ready=False)
            ask()
            spent = time.perf_counter() - begin
            worker.stop()
            return spent

        def bare() -> float:
            begin = time.perf_counter()
            script = BareScript()
            spent = time.perf_counter() - begin
            script.stop()
            return spent

        ours(), bare()
        result = compare(ours, bare, scale, "start to first picture beside a bare script", turns=1)
    return result.figure(
        "worker start to first picture / bare script start to first picture",
        Goal(1.15),
        f"{result.our_median:.2f} s, bare {result.their_median:.2f} s",
    )
