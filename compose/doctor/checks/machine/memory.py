"""Checks that the models fit into the memory of the machine and of its device."""

from collections.abc import Iterator

import psutil

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.installation import Installation
from shared.workers.devices import Device
from worker.models.download_plans import DownloadPlan, format_bytes
from worker.models.sources import ModelSource

USE_LESS = "Use a smaller model, a machine with more memory, or the cloud: SD_BACKENDS=flux-api."
#: What a model needs beside its weights: activations, and the process itself.
WORKING_BYTES = 1 << 30


def check(installation: Installation) -> Iterator[Finding]:
    memory, device = psutil.virtual_memory(), installation.known_device()
    size = f"{format_bytes(memory.total)} of main memory, {format_bytes(memory.available)} of it free"
    if device and device.memory_bytes:
        size += f"; {device.name} has {format_bytes(device.memory_bytes)}"
    # While the service runs, it uses most of the memory itself.
    free = _least_free(memory.available, device) if installation.redis_url is None else None
    findings = [
        finding for source in installation.models for finding in _check_model(source, memory.total, free, device)
    ]
    yield from findings or [ok(f"This machine has {size}.")]


def _check_model(source: ModelSource, total: int, free: int | None, device: Device | None) -> Iterator[Finding]:
    weights = weights_of(source)
    if weights is None:
        return
    detail = f"The weights of {source.model_id} take {format_bytes(weights)}"
    if weights + WORKING_BYTES > total:
        yield problem(f"{detail}, and this machine has {format_bytes(total)} of memory.", USE_LESS)
    elif device and device.memory_bytes and weights > device.memory_bytes:
        yield warning(
            f"{detail}, and {device.name} has {format_bytes(device.memory_bytes)}: part of them stays in main memory.",
            "Jobs succeed, but slowly. " + USE_LESS,
        )
    elif free is not None and weights + WORKING_BYTES > free:
        yield warning(f"{detail}, and only {format_bytes(free)} are free.", "End other programs. " + USE_LESS)


def _least_free(main_free: int, device: Device | None) -> int:
    return min(main_free, device.free_bytes) if device and device.free_bytes is not None else main_free


def weights_of(source: ModelSource) -> int | None:
    """Bytes; None where no file of the model is on disk yet."""
    if plan := DownloadPlan.read(source.folder):
        return plan.total_bytes
    return sum(file.stat().st_size for file in source.folder.rglob("*.safetensors")) or None
