"""Checks the device that the models compute on."""

import subprocess
from collections.abc import Iterator

from compose.doctor.findings import Finding, ok, problem, warning
from compose.doctor.installation import PROBE_SECONDS, Installation
from shared.settings.explanations import install_command
from shared.workers.devices import Device
from worker.models.sources import STARTER_NAME

REINSTALL = f"Install the packages of the local backends: `make run`, or `{install_command('worker')}`."
CUDA_BUILD = (
    "Install a PyTorch with CUDA: https://pytorch.org/get-started/locally; with Docker, use compose/nvidia.yaml."
)


def check(installation: Installation) -> Iterator[Finding]:
    if not installation.local_backends:
        yield ok(f"{', '.join(installation.settings.backends)} needs no device on this machine.")
        return
    try:
        device = installation.device.result(PROBE_SECONDS)
    except (TimeoutError, subprocess.TimeoutExpired):
        yield problem(
            f"The device did not respond within {PROBE_SECONDS} s.",
            "Restart its driver or the machine, or avoid it with SD_DEVICE=cpu.",
        )
    except (subprocess.SubprocessError, ValueError):
        yield problem("PyTorch is installed, but fails to load.", REINSTALL)
    else:
        yield _check_device(device, installation) if device else problem("PyTorch is not installed.", REINSTALL)


def _check_device(device: Device, installation: Installation) -> Finding:
    build, setting = f"PyTorch {device.torch}", installation.settings.device
    if device.kind is None:
        return problem(
            f"{build} cannot compute on SD_DEVICE={setting}: {device.problem}",
            "Check the driver and its version (`nvidia-smi`), or set SD_DEVICE=auto.",
        )
    if device.kind != "cpu":
        return ok(f"{build} computes on {device.kind}{f' ({device.name})' if device.name else ''}.")
    if device.has_nvidia and setting == "auto":
        return _unused_gpu(device, build)
    if models := [source.model_id for source in installation.models if source.model_id != STARTER_NAME]:
        return warning(
            f"{build} computes on the CPU, where an image of {models[0]} takes minutes.",
            "Use a GPU, a model for few steps such as stabilityai/sd-turbo, or the cloud: SD_BACKENDS=flux-api.",
        )
    return ok(f"{build} computes on the CPU, which is enough for the starter model.")


def _unused_gpu(device: Device, build: str) -> Finding:
    if device.cuda_build is None:
        return warning(f"This machine has an NVIDIA GPU, but {build} was built for CPUs.", CUDA_BUILD)
    return warning(
        f"This machine has an NVIDIA GPU, but {build}, built for CUDA {device.cuda_build}, cannot use it.",
        "Update the NVIDIA driver; `nvidia-smi` shows its version.",
    )
