"""The NVIDIA GPUs of this machine, counted without a model library, and a worker for each."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from shutil import which

from shared.jobs.types import Backend

PROBE_SECONDS = 10.0
#: A folder for each GPU, where NVIDIA's driver for Linux runs.
DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")
#: Backends whose models run on a device of this machine.
LOCAL = frozenset({Backend.SD, Backend.FLUX_LOCAL})


@dataclass(frozen=True)
class WorkerSlot:
    """One of the workers of a backend on this machine."""

    name: str
    """Of its Celery node and its log: the backend, and the device if there are several."""
    settings: Mapping[str, str]
    """Environment variables that differ from those of other workers."""


def worker_slots(backend: Backend, device: str, gpus: int) -> Iterator[WorkerSlot]:
    """One worker, or with SD_DEVICE=auto and several GPUs, one for each, pinned to it."""
    settings = {"SD_BACKEND": str(backend)}
    if backend not in LOCAL or device != "auto" or gpus < 2:
        yield WorkerSlot(str(backend), settings)
        return
    for number in range(gpus):
        pinned = {"SD_DEVICE": f"cuda:{number}", "SD_HOST_WORKERS": str(gpus)}
        yield WorkerSlot(f"{backend}-cuda{number}", settings | pinned)


def visible_gpus(environment: Mapping[str, str], list_gpus: Callable[[], int] | None = None) -> int:
    """How many GPUs PyTorch would find here; 0 if the installed one was built without CUDA."""
    if not _has_cuda_build():
        return 0
    installed = (list_gpus or installed_gpus)()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return installed
    names = [name.strip() for name in visible.split(",")]
    # As CUDA does: of parts of a GPU (MIG) a process has one, a name that is given twice hides all GPUs, and everything
    # from the first invalid name on is ignored.
    if names[0].startswith("MIG-"):
        return 1
    if len(set(names)) < len(names):
        return 0
    if names[0].startswith("GPU-"):
        return sum(1 for _ in takewhile(lambda name: name.startswith("GPU-"), names))
    # Zero may mean that the driver did not answer.
    limit = installed or sys.maxsize
    return sum(1 for _ in takewhile(lambda name: name.isdecimal() and int(name) < limit, names))


def installed_gpus(driver_folder: Path = DRIVER_FOLDER) -> int:
    if driver_folder.is_dir():
        return sum(1 for _ in driver_folder.iterdir())
    program = which("nvidia-smi")
    if program is None:
        return 0
    try:
        listed = subprocess.run(  # noqa: S603 - a fixed command
            [program, "--list-gpus"], capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _has_cuda_build() -> bool:
    try:
        return "+cpu" not in version("torch")
    except PackageNotFoundError:
        return False
