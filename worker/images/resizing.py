"""Resizes finished images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.models.capabilities import Size


def resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """RGB or one channel, with the Lanczos filter; `size` is width and height."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
