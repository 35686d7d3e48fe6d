"""Scales finished images."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Size
from worker.images.values import RenderedImage


def scale_to_output(image: RenderedImage, request: GenerationRequest) -> RenderedImage:
    """The image with the size of `output_width` and `output_height`, or as it is without them."""
    if request.output_width is None or request.output_height is None:
        return image
    size = request.output_width, request.output_height
    opacity = None if image.opacity is None else scaled(image.opacity, size)
    return replace(image, pixels=scaled(image.pixels, size), opacity=opacity)


def scaled(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """RGB or one channel, with the Lanczos filter; `size` is width and height."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.LANCZOS))
