"""The numbers and words that AUTOMATIC1111's web UI has for what happens to input images."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from shared.jobs.types import MaskFill, ResizeMode

E = TypeVar("E", bound=StrEnum)

#: The default strength of requests with an input image.
INPUT_STRENGTH = 0.75
#: By the web UI's numbers.
RESIZE_MODES = (ResizeMode.STRETCH, ResizeMode.CROP, ResizeMode.FILL)
#: By the web UI's numbers. Noise and grey approximate what it does to latents.
MASK_FILLS = (MaskFill.SURROUNDINGS, MaskFill.ORIGINAL, MaskFill.NOISE, MaskFill.GREY)
MASKED_CONTENT = dict(zip(MASK_FILLS, ("fill", "original", "latent noise", "latent nothing"), strict=True))


def choose(name: str, number: int | None, choices: Sequence[E], warnings: list[str]) -> E:
    """The choice with this number. Without one, it is the first; for an unknown one also, with a warning."""
    if number is None or 0 <= number < len(choices):
        return choices[number or 0]
    warnings.append(f"{name} {number} is unknown: {choices[0]} is used")
    return choices[0]
