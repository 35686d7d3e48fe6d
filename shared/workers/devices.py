"""What processes that have PyTorch tell of the device, to those that have none."""

from shared.jobs.types import FrozenModel


class Device(FrozenModel):
    torch: str
    """Version of PyTorch."""
    cuda_build: str | None
    """Version of CUDA that this PyTorch was built for; None for CPU builds."""
    has_nvidia: bool
    """Whether the machine has NVIDIA's driver."""
    kind: str | None = None
    """`cpu`, `cuda` or `mps`; None where the device that was asked for is of no use, and `problem` says why."""
    name: str = ""
    memory_bytes: int | None = None
    """Of the device itself; None where it shares the main memory."""
    free_bytes: int | None = None
    has_bfloat16: bool = True
    """Whether the device computes with it, rather than emulating it."""
    problem: str = ""


class DeviceMemory(FrozenModel):
    """Of the device that a worker renders on: of the GPU, or of the machine."""

    used_bytes: int
    """By all programs."""
    size_bytes: int
