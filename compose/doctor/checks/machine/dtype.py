"""Checks that the precision (SD_DTYPE) suits the device and the models."""

from collections.abc import Iterator

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.installation import Installation
from shared.jobs.types import Backend
from shared.workers.devices import Device

AUTO = "Set SD_DTYPE=auto, which chooses a safe precision."


def check(installation: Installation) -> Iterator[Finding]:
    device, dtype = installation.known_device(), installation.settings.dtype
    if device is None or device.kind is None:
        yield ok(f"SD_DTYPE={dtype}; there is no device to compare it with.")
    elif findings := list(_unsuitable(device, dtype, installation.local_backends)):
        yield from findings
    else:
        yield ok(f"SD_DTYPE={dtype} suits {device.kind}.")


def _unsuitable(device: Device, dtype: str, backends: tuple[Backend, ...]) -> Iterator[Finding]:
    if dtype == "float16" and Backend.FLUX_LOCAL in backends:
        yield problem("FLUX overflows in float16 and gives black images; its worker refuses to start.", AUTO)
    if dtype == "float16" and device.kind == "mps":
        yield warning("In float16, Apple's GPU gives black images with many models.", AUTO)
    if dtype == "float16" and device.kind == "cpu":
        yield warning("CPUs compute slowly in float16, and lack some operations.", AUTO)
    if dtype == "bfloat16" and not device.has_bfloat16:
        yield warning(f"{device.name} has no bfloat16 in hardware: PyTorch emulates it, slowly.", AUTO)
