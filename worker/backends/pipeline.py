"""What backends on diffusers share: where the model runs, seeds, steps and previews."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from shared.errors import ConfigurationError
from worker.backends.base import OnStep, Pixels, Step


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA, then Apple's GPU, then the CPU. Raises ConfigurationError for a device that is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(wanted)
    present = {
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not present[device.type]:
        raise ConfigurationError(
            f"SD_DEVICE is {wanted}, but this machine has no such device; SD_DEVICE=auto finds one."
        )
    return device


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One generator per picture, on the CPU: the noise is then the same on every device, and alone or in a batch."""
    return [torch.Generator("cpu").manual_seed(seed + index) for index in range(count)]


def step_callback(
    on_step: OnStep, steps: int, preview: Callable[[torch.Tensor], Pixels]
) -> Callable[..., dict[str, Any]]:
    """For diffusers' `callback_on_step_end`, which must give back a dict.

    A cancelled job raises out of it. Setting `pipe._interrupt` instead would still decode a half-made picture.
    """

    def on_step_end(_: object, index: int, __: object, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        on_step(Step(index + 1, steps, lambda: preview(latents[:1])))
        return {}

    return on_step_end


def to_pixels(images: np.ndarray) -> list[Pixels]:
    """From diffusers' `output_type="np"`: float32 0..1, shape (pictures, height, width, 3). NaN becomes black."""
    clean = np.nan_to_num(images, nan=0.0, posinf=1.0, neginf=0.0)
    return list((clean * 255).round().clip(0, 255).astype(np.uint8))
