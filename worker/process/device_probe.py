"""Probes this machine's device with PyTorch and prints JSON: `python -m worker.process.device_probe auto`.

It runs as a separate process, so that its caller need not load PyTorch or wait for a device that hangs.
"""

import shutil
import sys

import torch

from shared.errors import ConfigurationError
from shared.workers.devices import Device
from worker.engines.diffusers.memory.devices import choose_device


def probe(wanted: str) -> Device:
    """Choose the device that a worker would use, and compute on it once."""
    build = Device(torch=torch.__version__, cuda_build=torch.version.cuda, has_nvidia=bool(shutil.which("nvidia-smi")))
    try:
        device = choose_device(wanted)
        torch.ones(64, 64, device=device).matmul(torch.ones(64, 64, device=device)).sum().item()
    except ConfigurationError as error:
        return build.model_copy(update={"problem": error.detail})
    # A device that is broken or out of memory raises whatever its driver raises.
    except Exception as error:
        return build.model_copy(update={"problem": " ".join(str(error).split())[:300] or type(error).__name__})
    return build.model_copy(update={"kind": device.type} | _cuda_details(device))


def _cuda_details(device: torch.device) -> dict[str, object]:
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    # Volta and Turing emulate bfloat16, slowly; Ampere is 8.0.
    native = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return {
        "name": torch.cuda.get_device_name(device),
        "memory_bytes": total,
        "free_bytes": free,
        "has_bfloat16": native,
    }


if __name__ == "__main__":
    sys.stdout.write(probe(sys.argv[1]).model_dump_json() + "\n")
