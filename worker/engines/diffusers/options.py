"""Options of the operator for all models."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Level(IntEnum):
    """Levels of SD_OPTIMIZE. Each includes those before it."""

    OFF = 0
    """Plain diffusers."""
    SAFE = 1
    """No change of pixels on CPUs; at most of the last bits on GPUs."""
    FAST = 2
    """The same image, with different last bits."""
    MAX = 3
    """A slightly different image."""


@dataclass(frozen=True)
class DiffusersOptions:
    device: str = "auto"
    dtype: str = "auto"
    safety_checker: Callable[[], Path] | None = None
    """Returns the folder of the checker for models that come without one; None switches checking off."""
    lora_dir: Path | None = None
    embedding_dir: Path | None = None
    max_batch_size: int = 4
    level: Level = Level.SAFE
    quantize: str = "off"
    """off, auto, 8bit or 4bit (see SD_QUANTIZE)."""
    compile_sizes: tuple[str, ...] = ()
    """`WIDTHxHEIGHT`: sizes to compile for from `fast` on, beside the model's own on GPUs."""
    data_dir: Path | None = None
    """Where compiled code and measurements are kept; None keeps them until this process ends."""
    suggest_cloud: bool = False
    """Whether errors about memory name flux-api as an alternative."""
