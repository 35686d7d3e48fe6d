"""What the engines on diffusers share: seeds, step callbacks, previews, and retries of black or broken images."""

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

#: One image as diffusers' `output_type="np"` returns it: 0..1, shape (height, width, 3).
Image = NDArray[np.float32]


def quieten_libraries() -> None:
    """Route the libraries' errors to our log and drop the rest; downloads keep their progress bars."""
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
        library.disable_default_handler()
        library.enable_propagation()


def seeded_generator(seed: int) -> torch.Generator:
    """For one image. On the CPU, so that the noise is the same on every device, alone or in a batch."""
    return torch.Generator("cpu").manual_seed(seed)


def step_callback(
    on_step: OnStep, steps: int, preview: Callable[[torch.Tensor], Pixels]
) -> Callable[..., dict[str, Any]]:
    """A `callback_on_step_end` for diffusers, which must return a dict.

    A cancelled job raises out of it. Setting `pipe._interrupt` instead would still decode a half-finished image.
    """

    def on_step_end(pipe: Any, index: int, _: object, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        # Some schedulers run the model more often than once per step: Heun's nearly twice.
        step = max(1, (index + 1) * steps // pipe.num_timesteps)
        on_step(Step(step, steps, lambda index: preview(latents[index][None]) if 0 <= index < len(latents) else None))
        return {}

    return on_step_end


def steps_of_run(on_step: OnStep, run: int, runs: int, first_image: int) -> OnStep:
    """Reports the steps of one of several equally long pipeline runs as steps of the whole job.

    `first_image` is the index within the job of the first image of this run.
    """

    def on_run_step(step: Step) -> None:
        def render_preview(index: int) -> Pixels | None:
            return step.render_preview(index - first_image) if step.render_preview else None

        on_step(Step(run * step.steps + step.step, runs * step.steps, render_preview))

    return on_run_step


def is_sound(image: Image) -> bool:
    """False for broken images: an overflow in half precision yields NaN or a single colour, usually black."""
    return bool(np.isfinite(image).all()) and to_pixels(image).min() != to_pixels(image).max()


def to_image(tensor: torch.Tensor) -> Image:
    """From a decoded batch of one, -1..1."""
    image: Image = (tensor / 2 + 0.5)[0].permute(1, 2, 0).float().cpu().numpy()
    return image


def to_pixels(image: Image) -> Pixels:
    pixels: Pixels = (image * 255).round().clip(0, 255).astype(np.uint8)
    return pixels


@dataclass(frozen=True)
class Attempt:
    """One way to generate an image, and the warning for the job if earlier ways have failed."""

    description: str
    make: Callable[[], Image]


def first_sound_image(attempts: Iterable[Attempt], add_warning: Callable[[str], None]) -> Pixels:
    """Raises InvalidOutput if every attempt yields a broken image."""
    for number, attempt in enumerate(attempts):
        if number:
            logger.warning("the image was black or broken: %s", attempt.description)
            add_warning(f"the image came out black or broken: {attempt.description}")
        image = attempt.make()
        if is_sound(image):
            return to_pixels(image)
    raise InvalidOutput


@contextmanager
def in_float32(*modules: torch.nn.Module) -> Iterator[None]:
    """Convert the modules to full precision for the block: values that overflow in half precision do not there."""
    dtypes = [next(module.parameters()).dtype for module in modules]
    try:
        for module in modules:
            module.to(torch.float32)
        yield
    finally:
        for module, dtype in zip(modules, dtypes, strict=True):
            module.to(dtype)


def to_preview(image: torch.Tensor) -> Pixels:
    """From a batch of one, 0..1. NaN becomes black: whether the image is sound is judged at the end."""
    return to_pixels(np.nan_to_num(image[0].permute(1, 2, 0).float().cpu().numpy(), posinf=1.0, neginf=0.0))


def false_colour_preview(channels: torch.Tensor) -> Pixels:
    """Shapes in false colours: three latent channels, as a batch of one, each stretched to the visible range."""
    channels = channels.float()
    low, high = channels.amin((2, 3), keepdim=True), channels.amax((2, 3), keepdim=True)
    return to_preview((channels - low) / (high - low).clamp(min=1e-6))
