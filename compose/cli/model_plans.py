"""`imagegen models plan`: what a model would be on this machine, before it is downloaded."""

from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.client_error import errors_as_one_sentence
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import load

if TYPE_CHECKING:
    from shared.workers.devices import Device
    from worker.models.catalogue.prospects import Prospect

_COMMERCIAL = {True: "permitted", False: "forbidden", None: "see its licence"}
_PLACEMENTS = {
    "resident": "everything stays on the device",
    "model-offload": "one part at a time is on the device, which is slower",
    "group-offload": "a few layers at a time are on the device, which is slowest",
}


def plan(
    name: Annotated[str, typer.Argument(help="A Hugging Face id, or a name from `imagegen models list`.")],
) -> None:
    """Tell download, licence, precision and memory of a model; downloads configurations at most."""
    # Imported here, as in every command, so that `imagegen up` does not wait for it.
    from compose.doctor.installation import probe_device
    from worker.models.catalogue.prospects import prospect_of
    from worker.models.sources import ModelSource

    with errors_as_one_sentence():
        settings = load(LauncherSettings)
        prospect = prospect_of(ModelSource.for_model(settings, name))
        device = probe_device(settings.device)
        for label, text in _lines(prospect, settings.dtype, device):
            print(f"{label:<15}{text}")


def _lines(prospect: "Prospect", dtype: str, device: "Device | None") -> list[tuple[str, str]]:
    from worker.models.download_plans import format_bytes

    kind = device.kind if device and device.kind else "cpu"
    precision = prospect.precision(dtype, kind)
    sizes = prospect.sizes(precision)
    download = f"{format_bytes(prospect.missing_bytes)} of {format_bytes(prospect.total_bytes)}"
    parts = ", ".join(f"{part} {format_bytes(size)}" for part, size in sorted(sizes.items()))
    return [
        ("family", prospect.family.title),
        ("licence", prospect.licence or "unknown"),
        ("commercial use", _COMMERCIAL[prospect.commercial_use]),
        ("download", download if prospect.missing_bytes else "none: it is on this machine"),
        ("precision", precision),
        ("weights", f"{format_bytes(sum(sizes.values()))} ({parts})"),
        ("memory", _memory(prospect, precision, device)),
    ]


def _memory(prospect: "Prospect", precision: str, device: "Device | None") -> str:
    import psutil

    from worker.models.download_plans import format_bytes

    weights = sum(prospect.sizes(precision).values())
    free = psutil.virtual_memory().available
    fits = "" if weights <= free else ": it does not fit"
    main = f"main memory has {format_bytes(free)} free{fits}"
    if device is None or device.free_bytes is None:
        return main
    placement = prospect.placement(precision, device.free_bytes)
    return f"{placement}, {_PLACEMENTS[placement]}; {device.name} has {format_bytes(device.free_bytes)} free, {main}"
