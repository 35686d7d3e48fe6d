"""Retries images that came out black or broken."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from shared.errors import InvalidOutput
from worker.engines.diffusers.decoding.pixels import DecodedPixels
from worker.images.values import Pixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One way to generate an image, and the warning for the job if earlier ways have failed."""

    description: str
    make: Callable[[], DecodedPixels]


def first_sound_image(attempts: Iterable[Attempt], add_warning: Callable[[str], None]) -> Pixels:
    """Raises InvalidOutput if every attempt yields a broken image."""
    for number, attempt in enumerate(attempts):
        if number:
            logger.warning("the image was black or broken: %s", attempt.description)
            add_warning(f"the image came out black or broken: {attempt.description}")
        image = attempt.make()
        if image.is_sound:
            return image.pixels
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
