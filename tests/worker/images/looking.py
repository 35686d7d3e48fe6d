"""How tests look at images."""

import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Colour = tuple[float, float, float]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def pixels(data: bytes) -> Pixels:
    return np.asarray(opened(data).convert("RGB"))


def middle(image: Pixels) -> Colour:
    """Mean colour of the innermost sixteenth."""
    height, width, _ = image.shape
    return _mean(image[height * 3 // 8 : height * 5 // 8, width * 3 // 8 : width * 5 // 8])


def corners(image: Pixels) -> Colour:
    """Mean colour of the four corners, an eighth of each side."""
    height, width, _ = image.shape
    rows, columns = np.r_[: height // 8, -(height // 8) : 0], np.r_[: width // 8, -(width // 8) : 0]
    return _mean(image[np.ix_(rows, columns)])


def shows_a_red_heart_on_blue(image: Pixels) -> bool:
    inner, outer = middle(image), corners(image)
    return inner[0] > 2 * max(inner[1:]) and outer[2] > 1.5 * max(outer[:2])


def idat(png: bytes) -> bytes:
    """The compressed pixels of a PNG file."""
    data, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return data


def _mean(region: Pixels) -> Colour:
    red, green, blue = region.reshape(-1, 3).mean(axis=0)
    return float(red), float(green), float(blue)
