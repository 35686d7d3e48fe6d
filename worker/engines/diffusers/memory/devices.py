"""Chooses device and precision of a model, and reports how full the device is."""

from collections.abc import Mapping

import psutil
import torch

from shared.errors import ConfigurationError
from shared.workers.devices import DeviceMemory
from worker.engines.diffusers.options import DiffusersOptions, Level
from worker.models.families import family_of
from worker.models.local_model import LocalModel
from worker.models.placements import HALF_PRECISION


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


def precision_of(model: LocalModel, options: DiffusersOptions) -> torch.dtype:
    """Raises ConfigurationError for a precision in which the model's images would be black."""
    family = family_of(model)
    if options.dtype == "float16" and not family.is_safe_in_float16:
        raise ConfigurationError(
            f"SD_DTYPE is float16, in which {family.title} gives black images; SD_DTYPE=auto takes bfloat16 on GPUs "
            "and float32 on CPUs."
        )
    half = HALF_PRECISION[family.is_safe_in_float16]
    if options.level is Level.MAX and computes_bfloat16():
        half = {**half, "cpu": "bfloat16"}
    return choose_dtype(options.dtype, choose_device(options.device), half)


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
                memory = psutil.virtual_memory()
                free, size = memory.available, memory.total
    except RuntimeError:
        # The device has failed.
        return None
    return DeviceMemory(used_bytes=size - free, size_bytes=size)
