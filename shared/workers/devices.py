"""The compute device, as processes with PyTorch report it to those without."""

from shared.jobs.types import FrozenModel


class Device(FrozenModel):
    torch: str
    """Version of PyTorch."""
    cuda_build: str | None
    """Version of CUDA that this PyTorch was built for; None for CPU builds."""
    has_nvidia: bool
    """Whether NVIDIA's driver is installed."""
    kind: str | None = None
    """`cpu`, `cuda` or `mps`; None if the requested device cannot be used, which `problem` explains."""
    name: str = ""
    memory_bytes: int | None = None
    """Of the device; None if it shares the main memory."""
    free_bytes: int | None = None
    has_bfloat16: bool = True
    """Whether the hardware supports it, without emulation."""
    problem: str = ""


class DeviceMemory(FrozenModel):
    """Memory of the GPU that a worker uses, or of the machine."""

    used_bytes: int
    """By all processes."""
    size_bytes: int
