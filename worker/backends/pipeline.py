"""What backends on diffusers share: where the model runs, seeds, steps, previews, memory."""

from collections.abc import Callable
from typing import Any

import diffusers.utils.logging
import numpy as np
import torch
import transformers.utils.logging
from numpy.typing import NDArray

from shared.errors import ConfigurationError, InvalidOutput
from worker.backends.base import OnStep, Pixels, Step


def quieten_libraries() -> None:
    """Leave only their errors, in our own log; downloads from Hugging Face keep their progress bars."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
        library.disable_default_handler()
        library.enable_propagation()


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

    def on_step_end(pipe: Any, index: int, _: object, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        # Some schedulers run the model more often than there are steps: Heun's nearly twice.
        step = max(1, (index + 1) * steps // pipe.num_timesteps)
        on_step(Step(step, steps, lambda: preview(latents[:1])))
        return {}

    return on_step_end


def to_pixels(images: NDArray[np.float32]) -> list[Pixels]:
    """From diffusers' `output_type="np"`: 0..1, shape (pictures, height, width, 3). Raises InvalidOutput for NaN."""
    if not np.isfinite(images).all():
        raise InvalidOutput("The model gave values that are no colours; SD_DTYPE=float32 may help.")
    return list((images * 255).round().clip(0, 255).astype(np.uint8))


def to_preview(image: torch.Tensor) -> Pixels:
    """From one picture as a batch of torch's, 0..1. NaN becomes black: what it means is judged at the end."""
    array = np.nan_to_num(image[0].permute(1, 2, 0).float().cpu().numpy(), posinf=1.0, neginf=0.0)
    pixels: Pixels = (array * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


def out_of_memory(error: RuntimeError) -> bool:
    """Whether that is what the error says; gives the device's cached memory back, for the next job."""
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return True
    # On CPUs there is no error class of its own for it.
    return "can't allocate memory" in str(error)
