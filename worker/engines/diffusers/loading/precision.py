"""The precision that a model is loaded in."""

import torch

from shared.errors import ConfigurationError
from worker.engines.diffusers.memory.devices import choose_device, choose_dtype, computes_bfloat16
from worker.engines.diffusers.options import DiffusersOptions, Level
from worker.models.families import family_of
from worker.models.local_model import LocalModel
from worker.models.placements import HALF_PRECISION


def precision_of(model: LocalModel, options: DiffusersOptions) -> torch.dtype:
    """Raises ConfigurationError for a precision in which the model's images would be black."""
    family = family_of(model)
    if options.dtype == "float16" and not family.is_safe_in_float16:
        raise ConfigurationError(
            f"SD_DTYPE is float16, in which {family.title} gives black images; SD_DTYPE=auto takes bfloat16 on GPUs "
            "and float32 on CPUs."
        )
    half = HALF_PRECISION[family.is_safe_in_float16]
    if options.level is Level.MAX and computes_bfloat16():
        half = {**half, "cpu": "bfloat16"}
    return choose_dtype(options.dtype, choose_device(options.device), half)
