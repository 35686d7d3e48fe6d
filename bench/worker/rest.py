"""CPU and memory of the whole service at rest."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.figures import Figure, Goal, Scale
from tests.compose.conftest import Launched

#: Until the work after a start is done: the first sweeps of the housekeeper, the first poll of Flower.
SETTLE_SECONDS = 8.0
#: Long enough for all periodic work.
REST_SECONDS = 10.0


def measure(scale: Scale) -> Iterator[Figure]:
    seconds = max(REST_SECONDS, scale.seconds)
    with tempfile.TemporaryDirectory(prefix="imagegen-bench-") as name:
        scale.show_progress("starting everything, as `imagegen up` does")
        with Launched(Path(name), SD_BACKENDS="sd") as launched:
            processes = [psutil.Process(launched.is_ready().launcher.pid), *launched.descendants()]
            scale.show_progress(f"{len(processes)} processes at rest for {SETTLE_SECONDS + seconds:.0f} s")
            time.sleep(SETTLE_SECONDS)
            begin, before = time.monotonic(), sum(map(_cpu_seconds, processes))
            time.sleep(seconds)
            used = (sum(map(_cpu_seconds, processes)) - before) / (time.monotonic() - begin)
            resident = launched.service("api_and_housekeeper").memory_info().rss / 1e6
    yield Figure("API at rest", resident, "MB", Goal(90))
    yield Figure("whole stack at rest, of one core", used * 100, "%", Goal(2), detail=f"{len(processes)} processes")
    yield from _memory_without_a_model(scale)


def _memory_without_a_model(scale: Scale) -> Iterator[Figure]:
    scale.show_progress("the whole stack without a model")
    with (
        tempfile.TemporaryDirectory(prefix="imagegen-bench-") as name,
        Launched(Path(name), SD_BACKENDS="null") as launched,
    ):
        processes = [psutil.Process(launched.is_ready().launcher.pid), *launched.descendants()]
        time.sleep(SETTLE_SECONDS)
        # Proportional set size: memory that processes share counts once.
        megabytes = [process.memory_full_info().pss / 1e6 for process in processes]
    detail = f"{len(processes)} processes"
    yield Figure("whole stack without a model at rest, PSS", sum(megabytes), "MB", Goal(230), detail=detail)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
