"""Scales finished images."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFilter

from shared.jobs.requests import GenerationRequest
from shared.models.capabilities import Size
from worker.images.values import RenderedImage

#: Scales RGB or one channel to a width and height.
Scale = Callable[[NDArray[np.uint8], Size], NDArray[np.uint8]]
#: Sides are multiples of pixels, which changes the aspect ratio by up to this share, invisibly.
MAX_STRETCH = 0.06


def scale_to_output(image: RenderedImage, request: GenerationRequest, scale: Scale | None = None) -> RenderedImage:
    """The image with the size of `output_width` and `output_height`, or as it is without them.

    An image of another aspect ratio is extended. With an input image, which the model saw stretched to its own size, it
    is stretched back. `scale` is used in place of the Lanczos filter.
    """
    scale = scale or scaled
    if request.output_width is None or request.output_height is None:
        return image
    size = request.output_width, request.output_height
    fit = scale if request.image or _has_shape(image, size) else partial(extended, scale=scale)
    return replace(
        image, pixels=fit(image.pixels, size), opacity=None if image.opacity is None else fit(image.opacity, size)
    )


def _has_shape(image: RenderedImage, size: Size) -> bool:
    height, width, _ = image.pixels.shape
    return bool(abs(width * size[1] / (height * size[0]) - 1) <= MAX_STRETCH)


def extended(image: NDArray[np.uint8], size: Size, scale: Scale) -> NDArray[np.uint8]:
    """The whole image in the middle, with its edges extended and blurred."""
    height, width = image.shape[:2]
    factor = min(size[0] / width, size[1] / height)
    inner = scale(image, (round(width * factor), round(height * factor)))
    left, top = (size[0] - inner.shape[1]) // 2, (size[1] - inner.shape[0]) // 2
    right, bottom = size[0] - inner.shape[1] - left, size[1] - inner.shape[0] - top
    margins = [(top, bottom), (left, right), (0, 0)][: image.ndim]
    sharp = PillowImage.fromarray(np.pad(inner, margins, mode="edge"))
    blurred = sharp.filter(ImageFilter.GaussianBlur(max(left, top) / 3))
    # The image fades into its surroundings, so that no line shows where it ends.
    fade = max(2, min(size) // 24)
    visible = PillowImage.new("L", size, 0)
    inside = (left + fade * bool(left), top + fade * bool(top))
    visible.paste(255, (*inside, size[0] - right - fade * bool(right), size[1] - bottom - fade * bool(bottom)))
    visible = visible.filter(ImageFilter.GaussianBlur(fade / 2))
    return np.asarray(PillowImage.composite(sharp, blurred, visible))


def scaled(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """RGB or one channel, with the Lanczos filter; `size` is width and height."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(PillowImage.fromarray(image).resize(size, PillowImage.Resampling.LANCZOS))
