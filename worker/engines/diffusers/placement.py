"""Where a model's parts wait for their turn, by what the device has room for."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch

from shared.errors import ConfigurationError
from worker.engines.diffusers.pipeline_loading import reason_of

logger = logging.getLogger(__name__)

#: What stays on the device in any case: small, and at times in need of another precision (see pipeline.in_float32).
AUTOENCODER = "vae"


class Placement(StrEnum):
    RESIDENT = "resident"
    """Everything stays on the device: fastest."""
    MODEL_OFFLOAD = "model-offload"
    """One part at a time is on the device, the others wait in main memory."""
    GROUP_OFFLOAD = "group-offload"
    """A few layers at a time are on the device, beside the autoencoder: slowest, and needs least."""


def choose(sizes: Mapping[str, int], free: int | None, working: Mapping[str, int]) -> Placement:
    """`sizes` are the bytes of each part, and `working` those that it needs beside them while it computes.

    `free` are those of the device; None where parts cannot wait elsewhere.
    """
    if free is None or sum(sizes.values()) + max(working.values(), default=0) <= free:
        return Placement.RESIDENT
    if max(size + working.get(part, 0) for part, size in sizes.items()) <= free:
        return Placement.MODEL_OFFLOAD
    return Placement.GROUP_OFFLOAD


def has_memory_of_its_own(device: torch.device) -> bool:
    """Apple's GPU shares its memory with the CPU: nothing is gained by moving parts there."""
    return device.type == "cuda"


def free_bytes(device: torch.device) -> int | None:
    return torch.cuda.mem_get_info(device)[0] if has_memory_of_its_own(device) else None


def sizes_of(pipe: Any) -> dict[str, int]:
    """Bytes of each part as it is loaded."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    # What two layers share is counted once.
    return {
        name: sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers())) for name, part in parts.items()
    }


def settle(pipe: Any, device: torch.device, name: str, working: Mapping[str, int]) -> Placement:
    """Put a loaded pipeline where there is room for it now. Raises ConfigurationError where there is none."""
    sizes, free = sizes_of(pipe), free_bytes(device)
    placement = choose(sizes, free, working)
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
                # The next layers come while the present ones compute.
                use_stream=device.type == "cuda",
                exclude_modules=[AUTOENCODER],
            )


def can_be_offloaded(placement: Placement, device: torch.device) -> bool:
    """Whether a job that does not fit may do so with `offloaded`."""
    return placement is Placement.RESIDENT and has_memory_of_its_own(device)


@contextmanager
def offloaded(pipe: Any, device: torch.device) -> Iterator[None]:
    """Of a resident pipeline, only the part that is at work is on the device until the block is left."""
    place(pipe, Placement.MODEL_OFFLOAD, device)
    try:
        yield
    finally:
        pipe.remove_all_hooks()
        place(pipe, Placement.RESIDENT, device)
