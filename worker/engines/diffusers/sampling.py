"""What backends on diffusers share: seeds, steps, previews, sound images.

The device is in devices.py, memory in memory.py, the safety checker in safety.py.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers.utils.logging
import numpy as np
import torch
import transformers.utils.logging
from numpy.typing import NDArray

from shared.errors import InvalidOutput
from worker.engines.base import OnStep, Step
from worker.images.values import Pixels

logger = logging.getLogger(__name__)

#: One image of diffusers' `output_type="np"`: 0..1, shape (height, width, 3).
Image = NDArray[np.float32]


def quieten_libraries() -> None:
    """Leave only their errors, in our own log; downloads from Hugging Face keep their progress bars."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
        library.disable_default_handler()
        library.enable_propagation()


def generator(seed: int) -> torch.Generator:
    """Of one image, on the CPU: the noise is then the same on every device, and alone or in a batch."""
    return torch.Generator("cpu").manual_seed(seed)


def step_callback(
    on_step: OnStep, steps: int, preview: Callable[[torch.Tensor], Pixels]
) -> Callable[..., dict[str, Any]]:
    """For diffusers' `callback_on_step_end`, which must give back a dict.

    A cancelled job raises out of it. Setting `pipe._interrupt` instead would still decode a half-made image.
    """

    def on_step_end(pipe: Any, index: int, _: object, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        # Some schedulers run the model more often than there are steps: Heun's nearly twice.
        step = max(1, (index + 1) * steps // pipe.num_timesteps)
        on_step(Step(step, steps, lambda index: preview(latents[index][None]) if 0 <= index < len(latents) else None))
        return {}

    return on_step_end


def is_sound(image: Image) -> bool:
    """Whether this is an image at all.

    What overflows in half precision becomes NaN, or one colour everywhere, mostly black.
    """
    return bool(np.isfinite(image).all()) and to_pixels(image).min() != to_pixels(image).max()


def to_pixels(image: Image) -> Pixels:
    pixels: Pixels = (image * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


@dataclass(frozen=True)
class Attempt:
    """One way to make an image, and what the job's warnings say where it had to be this one."""

    told: str
    make: Callable[[], Image]


def soundest(attempts: Iterable[Attempt], warn: Callable[[str], None]) -> Pixels:
    """The first attempt that gives a sound image. Raises InvalidOutput where none does."""
    for number, attempt in enumerate(attempts):
        if number:
            logger.warning("the image was black or broken: %s", attempt.told)
            warn(f"the image came out black or broken: {attempt.told}")
        image = attempt.make()
        if is_sound(image):
            return to_pixels(image)
    raise InvalidOutput


@contextmanager
def in_float32(*modules: torch.nn.Module) -> Iterator[None]:
    """The modules in full precision until the block is left: what overflowed in half does not there."""
    before = [next(module.parameters()).dtype for module in modules]
    try:
        for module in modules:
            module.to(torch.float32)
        yield
    finally:
        for module, dtype in zip(modules, before, strict=True):
            module.to(dtype)


def to_preview(image: torch.Tensor) -> Pixels:
    """From one image as a batch of torch's, 0..1. NaN becomes black: what it means is judged at the end."""
    array = np.nan_to_num(image[0].permute(1, 2, 0).float().cpu().numpy(), posinf=1.0, neginf=0.0)
    pixels: Pixels = (array * 255).round().clip(0, 255).astype(np.uint8)
    return pixels
