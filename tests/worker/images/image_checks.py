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


def shows_a_red_heart(image: Pixels) -> bool:
    """Whether it is on blue, and the red part has about the width of its height and narrows towards its bottom."""
    if not shows_a_red_heart_on_blue(image):
        return False
    red = (image[..., 0] > 120) & (image[..., 0] > image[..., 2].astype(int) + 40)
    rows, columns = np.flatnonzero(red.sum(axis=1) > 2), np.flatnonzero(red.sum(axis=0) > 2)
    if not len(rows) or not len(columns):
        return False
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    upper, lower = (red[rows[0] + int(height * part)].sum() for part in (0.35, 0.9))
    return bool(0.75 < width / height < 1.4 and upper > 2 * lower)


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
