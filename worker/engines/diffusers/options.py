"""What the operator chooses besides the model."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path


class Level(IntEnum):
    """Each includes those before it; their names are the values of SD_OPTIMIZE."""

    OFF = 0
    """Plain diffusers."""
    SAFE = 1
    """Changes no pixel."""
    FAST = 2
    """The same image with other last bits."""
    MAX = 3
    """Slightly another image."""

    @classmethod
    def of(cls, setting: str) -> "Level":
        return cls[setting.upper()]


@dataclass(frozen=True)
class DiffusersOptions:
    device: str = "auto"
    dtype: str = "auto"
    safety_checker: Callable[[], Path] | None = None
    """Returns the folder of the checker for models without their own; None switches checking off."""
    lora_dir: Path | None = None
    embedding_dir: Path | None = None
    max_batch_size: int = 4
    optimize: str = "safe"
    """The name of a level."""
    quantize: str = "off"
    """off, auto, 8bit or 4bit (see SD_QUANTIZE)."""
    compile_sizes: tuple[str, ...] = ()
    """`WIDTHxHEIGHT`: sizes to compile for from `fast` on, beside the model's own on GPUs."""
    data_dir: Path | None = None
    """Keeps compiled code and what was measured; None keeps them as long as this process."""
    suggest_cloud: bool = False
    """Whether errors about memory name flux-api as an alternative."""

    @property
    def level(self) -> Level:
        return Level.of(self.optimize)
