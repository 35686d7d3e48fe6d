"""The machine that is measured, and how much time is left on it."""

import gc
import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

#: Models of several gigabytes are written and read again; in main memory that takes seconds.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a file system


@dataclass(frozen=True)
class Machine:
    device: torch.device
    quick: bool
    ends_at: float
    """By the monotonic clock."""
    models: tuple[str, ...] = ()
    """Only these are measured; all if empty."""
    tests: tuple[str, ...] = ()
    """Parts of the names of the only tests that run; all if empty."""

    @classmethod
    def of(
        cls, device: str, quick: bool, ends_at: float, models: tuple[str, ...] = (), tests: tuple[str, ...] = ()
    ) -> Self:
        return cls(torch.device(device), quick, ends_at, models, tests)

    def wants(self, model: str) -> bool:
        return not self.models or model in self.models

    @property
    def is_tiny(self) -> bool:
        return self.device.type == "cpu"

    @property
    def description(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.facts().items())

    def facts(self) -> dict[str, str | int]:
        facts: dict[str, str | int] = {"card": "none (CPU)", "torch": torch.__version__, "cores": os.cpu_count() or 0}
        if self.device.type == "cuda":
            properties = torch.cuda.get_device_properties(self.device)
            facts |= {
                "card": properties.name,
                "memory_gb": round(properties.total_memory / 1e9),
                "capability": f"{properties.major}.{properties.minor}",
                "cuda": torch.version.cuda or "",
            }
        return facts | {"python": platform.python_version()}

    def seconds_left(self) -> float:
        return self.ends_at - time.monotonic()

    def has_seconds(self, seconds: float) -> bool:
        return self.is_tiny or self.seconds_left() > seconds

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def free_memory(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def model_folder(self, gigabytes: float) -> "tempfile.TemporaryDirectory[str]":
        """In main memory if there is room for it."""
        is_roomy = _SHARED_MEMORY.is_dir() and shutil.disk_usage(_SHARED_MEMORY).free > (gigabytes + 1) * 1e9
        return tempfile.TemporaryDirectory(prefix="imagegen-gpu-", dir=_SHARED_MEMORY if is_roomy else None)
