"""Installations for the checks of `imagegen doctor`, with probe results that a test chooses."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from compose.doctor.check_runner import CHECKS
from compose.doctor.findings import Finding, Level
from compose.doctor.http_probe import ProbeFailed, ProbeResponse
from compose.doctor.installation import Installation
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.settings.launcher import LauncherSettings
from shared.workers.devices import Device
from shared.workers.records import Download, WorkerRecord, Workers, WorkerState
from worker.models.download_plans import DownloadPlan, PlannedFile

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


def installation(
    folder: Path,
    *,
    probed_device: Device | None = CPU,
    redis_url: str | None = None,
    responses: Mapping[str, ProbeResponse | ProbeFailed] | None = None,
    **settings: Any,
) -> Installation:
    folders = {"data_dir": folder / "data", "output_dir": folder / "outputs", "model_dir": folder / "models"}
    loaded = LauncherSettings(**(folders | settings))
    return Installation(loaded, redis_url, done(probed_device), done(responses or {}))


def done(value: T) -> "Future[T]":
    future: Future[T] = Future()
    future.set_result(value)
    return future


def findings_of(name: str, examined: Installation) -> list[Finding]:
    """What the check of this name finds."""
    (check,) = (check for check in CHECKS if check.name == name)
    return list(check.run(examined))


def the_finding_of(check: str, examined: Installation) -> tuple[str, str]:
    """Level and detail of the only finding; warnings and problems have a remedy."""
    (finding,) = findings_of(check, examined)
    assert bool(finding.remedy) == (finding.level is not Level.OK)
    return finding.level, finding.detail


def planned_model(folder: Path, size: int) -> Path:
    """A model of which only the download plan is on disk."""
    folder.mkdir(parents=True)
    file = PlannedFile(path="model.safetensors", size=size)
    DownloadPlan(commit="0", files=(file,)).write(folder)
    return folder


@contextmanager
def loading_worker(redis_url: str, prefix: str, download: Download | None = None) -> Iterator[None]:
    """A worker record of sd whose state is `loading`."""
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
