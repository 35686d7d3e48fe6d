"""Chooses device and precision of a model, and reports how full the device is."""

from collections.abc import Mapping
from pathlib import Path

import torch

from shared.errors import ConfigurationError
from shared.workers.devices import DeviceMemory


def choose_device(setting: str) -> torch.device:
    """`auto` prefers CUDA, then Apple's GPU, then the CPU. Raises ConfigurationError if the device does not exist."""
    if setting == "auto":
        setting = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(setting)
    available = {
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not available[device.type]:
        raise ConfigurationError(f"SD_DEVICE is {setting}, but this machine has no such device; use SD_DEVICE=auto.")
    return device


def choose_dtype(setting: str, device: torch.device, half: Mapping[str, str]) -> torch.dtype:
    """`auto` takes the device's entry in `half`, which lists where half precision is safe, or else float32."""
    dtype: torch.dtype = getattr(torch, half.get(device.type, "float32") if setting == "auto" else setting)
    return dtype


def computes_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions. Without them bfloat16 is emulated, which is slower than float32."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def dtype_name(dtype: torch.dtype) -> str:
    """As in settings: `float16`."""
    return str(dtype).removeprefix("torch.")


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Used by all programs together; None if unknown."""
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
        # The device has failed, or the system has no /proc.
        return None
    return DeviceMemory(used_bytes=size - free, size_bytes=size)
