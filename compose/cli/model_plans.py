"""`imagegen models plan`: what a model would be on this machine, before it is downloaded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

if TYPE_CHECKING:
    from shared.workers.devices import Device
    from worker.models.catalogue.prospects import OnDevice, Prospect

_COMMERCIAL = {True: "permitted", False: "forbidden", None: "see its licence"}
_PLACEMENTS = {
    "resident": "everything stays on the device",
    "model-offload": "one part at a time is on the device, which is slower",
    "group-offload": "a few layers at a time are on the device, which is slowest",
}


def plan(
    name: Annotated[str, typer.Argument(help="A Hugging Face id, or a name from `imagegen models list`.")],
) -> None:
    """Show download, licence, precision and memory of a model; downloads configurations at most."""
    # Imported here, as in every command, so that `imagegen up` does not wait for it.
    from compose.doctor.installation import probe_device
    from worker.models.catalogue.prospects import prospect_of
    from worker.models.sources import ModelSource

    settings = load(LauncherSettings)
    prospect = prospect_of(ModelSource.for_model(settings, name))
    device = probe_device(settings.device)
    for label, text in _lines(prospect, settings.dtype, settings.quantize, device):
        print(f"{label:<15}{text}")


def _lines(prospect: "Prospect", dtype: str, quantize: str, device: "Device | None") -> list[tuple[str, str]]:
    from worker.models.download_plans import format_bytes

    kind = device.kind if device and device.kind else "cpu"
    precision = prospect.precision(dtype, kind)
    held = prospect.on_device(precision, quantize, kind, device.free_bytes if device else None)
    sizes = held.sizes
    is_quantized = held.quantization.width is not None
    download = f"{format_bytes(prospect.missing_bytes)} of {format_bytes(prospect.total_bytes)}"
    parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in sorted(sizes.items()))
    return [
        ("family", prospect.family.title),
        ("licence", prospect.licence or "unknown"),
        ("commercial use", _COMMERCIAL[prospect.commercial_use]),
        ("download", download if prospect.missing_bytes else "none: it is on this machine"),
        ("precision", f"{precision}, stored as {held.quantization}" if is_quantized else precision),
        ("weights", f"{'about ' if is_quantized else ''}{format_bytes(sum(sizes.values()))} ({parts})"),
        ("memory", _memory(held, device)),
        *(("", advice) for advice in _advice(prospect, held, precision, quantize, device)),
    ]


def _memory(held: "OnDevice", device: "Device | None") -> str:
    import psutil

    from worker.models.download_plans import format_bytes

    weights = sum(held.sizes.values())
    free = psutil.virtual_memory().available
    fits = "" if weights <= free else ": it does not fit"
    main = f"main memory has {format_bytes(free)} free{fits}"
    if device is None or device.free_bytes is None:
        return main
    how = f"{held.placement}, {_PLACEMENTS[held.placement]}"
    return f"{how}; {device.name} has {format_bytes(device.free_bytes)} free, {main}"


def _advice(
    prospect: "Prospect", held: "OnDevice", precision: str, quantize: str, device: "Device | None"
) -> Iterator[str]:
    """Why SD_QUANTIZE has not the effect that it could have, and what it would do."""
    for step, reason in held.obstacles.items():
        what = f"cannot be loaded: SD_QUANTIZE={step}" if step == quantize else f"{step} would fit, but"
        yield f"{what} {reason}"
    if quantize == "off" and held.placement != "resident" and device:
        auto = prospect.on_device(precision, "auto", device.kind or "cpu", device.free_bytes)
        if auto.placement == "resident":
            yield f"SD_QUANTIZE=auto would store it as {auto.quantization}, with which all of it fits"
