"""What models compute on."""

import subprocess
from collections.abc import Iterator

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.surroundings import PROBE_SECONDS, Surroundings
from shared.workers.devices import Device
from worker.models.sources import STARTER_NAME

REINSTALL = "Install the parts of the local engines: `make run`, or `pip install -c constraints.txt '.[worker]'`."
CUDA_BUILD = (
    "Install a PyTorch that is built for it: https://pytorch.org/get-started/locally; with Docker, compose/nvidia.yaml."
)


def look(here: Surroundings) -> Iterator[Finding]:
    if not here.local:
        yield ok(f"{', '.join(here.settings.backends)} needs no device here.")
        return
    try:
        device = here.device.result(PROBE_SECONDS)
    except (TimeoutError, subprocess.TimeoutExpired):
        yield problem(
            f"The device did not answer within {PROBE_SECONDS} s.",
            "Restart its driver or the machine; SD_DEVICE=cpu does without it.",
        )
    except (subprocess.SubprocessError, ValueError):
        yield problem("PyTorch is installed, but cannot be loaded.", REINSTALL)
    else:
        yield from _judged(device, here) if device else [problem("PyTorch is not installed.", REINSTALL)]


def _judged(device: Device, here: Surroundings) -> Iterator[Finding]:
    build = f"PyTorch {device.torch}"
    if device.kind is None:
        yield problem(
            f"{build} cannot compute on SD_DEVICE={here.settings.device}: {device.problem}",
            "Look whether the driver is there and fits (`nvidia-smi`), or take SD_DEVICE=auto.",
        )
    elif device.kind != "cpu":
        yield ok(f"{build} computes on {device.kind}{f' ({device.name})' if device.name else ''}.")
    elif device.has_nvidia and here.settings.device == "auto":
        yield _unused_gpu(device, build)
    elif real := [source.model_id for source in here.models if source.model_id != STARTER_NAME]:
        yield warning(
            f"{build} computes on the CPU, where an image of {real[0]} takes minutes.",
            "Use a GPU, a model for few steps such as stabilityai/sd-turbo, or the cloud: SD_BACKENDS=flux-api.",
        )
    else:
        yield ok(f"{build} computes on the CPU, which is enough for the starter model.")


def _unused_gpu(device: Device, build: str) -> Finding:
    if device.cuda_build is None:
        return warning(f"This machine has an NVIDIA GPU, but {build} was built for CPUs.", CUDA_BUILD)
    return warning(
        f"This machine has an NVIDIA GPU, but {build}, built for CUDA {device.cuda_build}, cannot use it.",
        "Update NVIDIA's driver, and look at what `nvidia-smi` says.",
    )
