"""Where a model runs, how precisely, and how full it is there."""

from collections.abc import Mapping
from pathlib import Path

import torch

from shared.errors import ConfigurationError
from shared.workers.devices import DeviceMemory


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA, then Apple's GPU, then the CPU. Raises ConfigurationError for a device that is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(wanted)
    present = {
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not present[device.type]:
        raise ConfigurationError(
            f"SD_DEVICE is {wanted}, but this machine has no such device; SD_DEVICE=auto finds one."
        )
    return device


def choose_dtype(wanted: str, device: torch.device, half: Mapping[str, torch.dtype]) -> torch.dtype:
    """`auto` takes what `half` has for the device's type, where the model family is known to survive it, or float32."""
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
        return dtype
    return half.get(device.type, torch.float32)


def computes_bfloat16() -> bool:
    """Whether this CPU has instructions for it; others only imitate it, which takes longer."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def name_of(dtype: torch.dtype) -> str:
    """As settings have it: `float16`."""
    return str(dtype).removeprefix("torch.")


def memory_of(device: torch.device) -> DeviceMemory | None:
    """How full the device is, with what all programs have there; None where that cannot be told."""
    try:
        match device.type:
            case "cuda":
                free, size = torch.cuda.mem_get_info(device)
            case "mps":
                size = torch.mps.recommended_max_memory()
                free = size - torch.mps.driver_allocated_memory()
            case _:
                lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
                kilobytes = {name: int(value) for name, value, *_ in lines}
                free, size = kilobytes["MemAvailable:"] << 10, kilobytes["MemTotal:"] << 10
    except (RuntimeError, OSError):
        # A device that has failed, or a system without /proc.
        return None
    return DeviceMemory(used_bytes=size - free, size_bytes=size)
