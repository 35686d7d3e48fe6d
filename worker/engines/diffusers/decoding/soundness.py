"""Turns decoded tensors into pixels, and retries images that came out black or broken."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from shared.errors import InvalidOutput
from worker.images.values import Pixels

logger = logging.getLogger(__name__)

#: One image as diffusers' `output_type="np"` returns it: 0..1, shape (height, width, 3).
Image = NDArray[np.float32]


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
