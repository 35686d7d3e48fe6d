"""Loads transformers from GGUF files, whose weights stay compressed in memory."""

import importlib.util
from pathlib import Path
from typing import Any

import diffusers
import torch

from shared.errors import ConfigurationError
from shared.settings.extras import install_command
from worker.engines.diffusers.checkpoints import flux


def load_gguf(kind: Any, file: Path, folder: Path, part: str, dtype: torch.dtype) -> Any:
    """`folder` holds the configuration. Raises ConfigurationError without the library, and what libraries raise."""
    if importlib.util.find_spec("gguf") is None:
        raise ConfigurationError(f"GGUF files need the package gguf: {install_command('gguf')}")
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    tensors = load_gguf_checkpoint(str(file))
    if flux.is_flux(tensors):
        tensors = flux.translate(tensors)
    return kind.from_single_file(
        tensors,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
        config=str(folder),
        subfolder=part,
        dtype=dtype,
        local_files_only=True,
    )
