"""What the operator chooses besides the model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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
    """off, safe, fast or max (see SD_OPTIMIZE)."""
    compile_sizes: tuple[str, ...] = ()
    """`WIDTHxHEIGHT`: sizes to compile for from `fast` on, beside the model's own on GPUs."""
    data_dir: Path | None = None
    """Keeps compiled code and what was measured; None keeps them as long as this process."""
    suggest_cloud: bool = False
    """Whether errors about memory name flux-api as an alternative."""
