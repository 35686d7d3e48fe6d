"""Whether the models fit."""

from collections.abc import Iterator

import psutil

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.workers.devices import Device
from worker.models.download_plans import DownloadPlan, format_bytes
from worker.models.sources import ModelSource

SMALLER = "Take a smaller model, a machine with more memory, or the cloud: SD_BACKENDS=flux-api."
#: Beside its weights, a model needs room for what it works on, and the process for itself.
WORKING_BYTES = 1 << 30


def look(here: Surroundings) -> Iterator[Finding]:
    main, device = psutil.virtual_memory(), here.found_device()
    room = f"{format_bytes(main.total)} of main memory, {format_bytes(main.available)} of it free"
    if device and device.memory_bytes:
        room += f"; {device.name} has {format_bytes(device.memory_bytes)}"
    wrong = [found for source in here.models for found in _judged(source, main.total, main.available, device, here)]
    yield from wrong or [ok(f"This machine has {room}.")]


def _judged(source: ModelSource, total: int, free: int, device: Device | None, here: Surroundings) -> Iterator[Finding]:
    weights = weights_of(source)
    if weights is None:
        return
    what = f"The weights of {source.model_id} take {format_bytes(weights)}"
    if weights + WORKING_BYTES > total:
        yield problem(f"{what}, and this machine has {format_bytes(total)} of memory.", SMALLER)
    elif device and device.memory_bytes and weights > device.memory_bytes:
        yield warning(
            f"{what}, and {device.name} has {format_bytes(device.memory_bytes)}: parts of it wait in main memory.",
            "Images come, but slowly; " + SMALLER[0].lower() + SMALLER[1:],
        )
    # What is taken while the service runs is mostly its own.
    elif here.redis_url is None and weights + WORKING_BYTES > _least_free(free, device):
        yield warning(
            f"{what}, and only {format_bytes(_least_free(free, device))} are free.",
            "End other programs, or: " + SMALLER,
        )


def _least_free(free: int, device: Device | None) -> int:
    return min(free, device.free_bytes) if device and device.free_bytes is not None else free


def weights_of(source: ModelSource) -> int | None:
    """Bytes, as far as the files tell; None where nothing of the model is here yet."""
    if plan := DownloadPlan.read(source.folder):
        return plan.total_bytes
    return sum(file.stat().st_size for file in source.folder.rglob("*.safetensors")) or None
