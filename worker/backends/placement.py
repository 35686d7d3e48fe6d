"""Where a model's parts wait for their turn, by what the device has room for."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch

#: What a picture of a megapixel and its edits need beside the weights. Measured by others for FLUX.2 Klein 4B at
#: 1024x1024 on CUDA: 17.3 GiB in all, of which 14.9 GiB are weights.
WORKING_BYTES = 3 << 30


class Placement(StrEnum):
    RESIDENT = "resident"
    """Everything stays on the device: fastest."""
    MODEL_OFFLOAD = "model-offload"
    """One part at a time is on the device, the others wait in main memory."""
    GROUP_OFFLOAD = "group-offload"
    """A few layers at a time are on the device: slowest, and needs least."""


def choose(sizes: Mapping[str, int], free: int | None) -> Placement:
    """`sizes` are the bytes of each part, `free` those of the device; None where parts cannot wait elsewhere."""
    if free is None or sum(sizes.values()) + WORKING_BYTES <= free:
        return Placement.RESIDENT
    if max(sizes.values()) + WORKING_BYTES <= free:
        return Placement.MODEL_OFFLOAD
    return Placement.GROUP_OFFLOAD


def free_bytes(device: torch.device) -> int | None:
    """Apple's GPU shares its memory with the CPU: nothing is gained by moving parts there."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def sizes_of(pipe: Any) -> dict[str, int]:
    """Bytes of each part as it is loaded."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    # What two layers share is counted once.
    return {
        name: sum(tensor.nbytes for tensor in (*part.parameters(), *part.buffers())) for name, part in parts.items()
    }


def place(pipe: Any, placement: Placement, device: torch.device) -> None:
    match placement:
        case Placement.RESIDENT:
            pipe.to(device)
        case Placement.MODEL_OFFLOAD:
            pipe.enable_model_cpu_offload(device=device)
        case Placement.GROUP_OFFLOAD:
            # With a stream, the next layers come while the present ones compute.
            pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda")
