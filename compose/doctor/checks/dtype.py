"""Whether the precision suits device and model."""

from collections.abc import Iterator

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import Surroundings
from shared.jobs.types import Backend
from shared.workers.devices import Device

AUTO = "Take SD_DTYPE=auto, which is what is safe there."


def look(here: Surroundings) -> Iterator[Finding]:
    device, wanted = here.found_device(), here.settings.dtype
    if device is None or device.kind is None:
        yield ok(f"SD_DTYPE={wanted}; without a device there is nothing to hold it against.")
    elif trouble := list(_troubles(device, wanted, here.local)):
        yield from trouble
    else:
        yield ok(f"SD_DTYPE={wanted} suits {device.kind}.")


def _troubles(device: Device, wanted: str, backends: tuple[Backend, ...]) -> Iterator[Finding]:
    if wanted == "float16" and Backend.FLUX_LOCAL in backends:
        yield problem("FLUX overflows in float16 and gives black images; its worker refuses to start.", AUTO)
    if wanted == "float16" and device.kind == "mps":
        yield warning("In float16, Apple's GPU gives black images with many models.", AUTO)
    if wanted == "float16" and device.kind == "cpu":
        yield warning("CPUs compute slowly in float16, and not everything.", AUTO)
    if wanted == "bfloat16" and not device.has_bfloat16:
        yield warning(f"{device.name} has no bfloat16 of its own: it is emulated, and slow.", AUTO)
