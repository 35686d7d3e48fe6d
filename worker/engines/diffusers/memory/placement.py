"""Decides which parts of a model stay on the device and which wait in main memory."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from shared.errors import ConfigurationError
from worker.engines.diffusers.memory.errors import reason_of
from worker.engines.diffusers.memory.out_of_memory import Fallback
from worker.engines.diffusers.memory.quantization import part_size, part_sizes
from worker.engines.diffusers.memory.shared_parts import parts_of
from worker.models.placements import AUTOENCODER, Placement, choose_placement

logger = logging.getLogger(__name__)


def has_own_memory(device: torch.device) -> bool:
    """Apple's GPU shares its memory with the CPU: offloading gains nothing there."""
    return device.type == "cuda"


def free_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if has_own_memory(device) else None


def usable_bytes(device: torch.device) -> int | None:
    """The free ones, and those that torch keeps for itself; None if the device uses main memory."""
    free = free_bytes(device)
    if free is None:
        return None
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def room_for(pipe: Any, device: torch.device) -> int | None:
    """Free bytes of the device, with those of parts that are there already because other models have them as well."""
    free, parts = free_bytes(device), parts_of(pipe).values()
    if free is None:
        return None
    return free + sum(part_size(part) for part in parts if any(one.device.type != "cpu" for one in part.parameters()))


def place_where_it_fits(
    pipe: Any, device: torch.device, name: str, working: Mapping[str, int], separate: Callable[[Any], None]
) -> Placement:
    """Move a loaded pipeline to where the device has room for it. Raises ConfigurationError if it does not fit.

    `separate` gives the pipeline parts of its own: those that wait in main memory have hooks.
    """
    sizes, free = part_sizes(pipe), free_bytes(device)
    placement = choose_placement(sizes, room_for(pipe, device), working)
    if placement is not Placement.RESIDENT:
        separate(pipe)
        placement = choose_placement(sizes, free, working)
    try:
        place(pipe, placement, device)
    except RuntimeError as error:
        raise ConfigurationError(f"The model {name} could not be loaded: {reason_of(error)}.") from error
    room = "" if free is None else f", {free / 1e9:.1f} GB are free"
    logger.info("%s: %s; its parts take %.1f GB%s", name, placement, sum(sizes.values()) / 1e9, room)
    return placement


def place(pipe: Any, placement: Placement, device: torch.device) -> None:
    match placement:
        case Placement.RESIDENT:
            pipe.to(device)
        case Placement.MODEL_OFFLOAD:
            pipe.enable_model_cpu_offload(device=device)
        case Placement.GROUP_OFFLOAD:
            pipe.enable_group_offload(
                onload_device=device,
                offload_type="leaf_level",
                # The next layers are copied while the current ones compute.
                use_stream=device.type == "cuda",
                exclude_modules=[AUTOENCODER],
            )


def offloading_fallbacks(pipe: Any, placement: Placement, device: torch.device) -> Iterator[Fallback]:
    """For pipelines that are resident on a device with its own memory."""
    if placement is Placement.RESIDENT and has_own_memory(device):
        yield Fallback("idle parts of the model waited in main memory", lambda: _offloaded(pipe, device))


@contextmanager
def _offloaded(pipe: Any, device: torch.device) -> Iterator[None]:
    place(pipe, Placement.MODEL_OFFLOAD, device)
    try:
        yield
    finally:
        pipe.remove_all_hooks()
        place(pipe, Placement.RESIDENT, device)
