"""Surroundings as checks of `imagegen doctor` see them, made for one test."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from compose.doctor.asking import ProbeFailed, ProbeResponse
from compose.doctor.examination import CHECKS
from compose.doctor.findings import Finding
from compose.doctor.surroundings import Surroundings
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.settings.launcher import LauncherSettings
from shared.workers.devices import Device
from shared.workers.records import Download, WorkerRecord, Workers, WorkerState

T = TypeVar("T")

CPU = Device(torch="2.13.0", cuda_build=None, has_nvidia=False, kind="cpu")
MPS = CPU.model_copy(update={"kind": "mps"})
CUDA = CPU.model_copy(
    update={
        "kind": "cuda",
        "cuda_build": "13.0",
        "name": "a GPU",
        "memory_bytes": 8 * 10**9,
        "free_bytes": 7 * 10**9,
    }
)


def around(
    folder: Path,
    *,
    probed: Device | None = CPU,
    redis_url: str | None = None,
    outside: Mapping[str, ProbeResponse | ProbeFailed] | None = None,
    **settings: Any,
) -> Surroundings:
    places = {"data_dir": folder / "data", "output_dir": folder / "outputs", "model_dir": folder / "models"}
    chosen = LauncherSettings(_env_file=None, **(places | settings))
    return Surroundings(chosen, redis_url, known(probed), known(outside or {}))


def known(value: T) -> "Future[T]":
    future: Future[T] = Future()
    future.set_result(value)
    return future


def found(check: str, here: Surroundings) -> list[Finding]:
    return [finding for each in CHECKS if each.name == check for finding in each.look(here)]


@contextmanager
def loading_worker(redis_url: str, prefix: str, download: Download | None = None) -> Iterator[None]:
    """A worker of sd that tells of itself that it has no model yet."""
    client = connect(redis_url)
    record = WorkerRecord(
        id="w",
        name="w",
        backend=Backend.SD,
        state=WorkerState.LOADING,
        model="m",
        download=download,
        started_at=datetime.now(UTC),
    )
    try:
        Store(client).run(Workers(prefix).heartbeat(record))
        yield
    finally:
        Store(client).run(Workers(prefix).unregister("w"))
        client.close()
