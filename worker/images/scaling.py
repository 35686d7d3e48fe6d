"""Scales finished images to the size that the caller asked for."""

from dataclasses import replace

import numpy as np
from PIL import Image as PillowImage

from shared.jobs.requests import GenerationRequest
from worker.images.values import RenderedImage


def scale_to_output(image: RenderedImage, request: GenerationRequest) -> RenderedImage:
    """The image with the size of `output_width` and `output_height`, or as it is without them."""
    if request.output_width is None or request.output_height is None:
        return image
    size = request.output_width, request.output_height
    height, width, _ = image.pixels.shape
    if size == (width, height):
        return image
    scaled = PillowImage.fromarray(image.pixels).resize(size, PillowImage.Resampling.LANCZOS)
    return replace(image, pixels=np.asarray(scaled, dtype=np.uint8))
