"""Fits input images to the aspect ratio of the result, and fills their masked areas."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFilter

from shared.jobs.types import MaskFill, ResizeMode
from shared.models.capabilities import Size
from worker.images.scaling import scaled
from worker.images.values import ImageSource, Mask, Opacity, Pixels

#: Surroundings are blurred at this size, with each of these radii in pixels: smaller ones replace what the larger ones
#: have filled where at least this weight, of 255, is known.
BLURRED_SIDE, BLUR_RADII, MIN_WEIGHT = 512, (256, 64, 16, 4), 32
GREY = np.uint8(127)
#: Noise has spots of this many pixels, as that of models that work on latents has; and this standard deviation.
SPOT, DEVIATION = 8, 64.0


def fit(image: NDArray[np.uint8], size: Size, mode: ResizeMode) -> NDArray[np.uint8]:
    """RGB or one channel, with about the aspect ratio of `size` (width and height). STRETCH is left to the scaling."""
    height, width = image.shape[:2]
    match mode:
        case ResizeMode.STRETCH:
            return image
        case ResizeMode.CROP:
            wide, high = _cropped_size((width, height), size)
            left, top = (width - wide) // 2, (height - high) // 2
            return image[top : top + high, left : left + wide]
        case ResizeMode.FILL:
            # Scaled first: a thin image would become huge.
            factor = min(size[0] / width, size[1] / height)
            inner = scaled(image, (max(1, round(width * factor)), max(1, round(height * factor))))
            left, top = (size[0] - inner.shape[1]) // 2, (size[1] - inner.shape[0]) // 2
            margins = [(top, size[1] - inner.shape[0] - top), (left, size[0] - inner.shape[1] - left), (0, 0)]
            return np.pad(inner, margins[: image.ndim], mode="edge")


def _cropped_size(given: Size, wanted: Size) -> Size:
    (width, height), ratio = given, wanted[0] / wanted[1]
    if width / height > ratio:
        return max(1, round(height * ratio)), height
    return width, max(1, round(width / ratio))


def fill(image: Pixels, mask: Mask, kind: MaskFill, seed: int) -> Pixels:
    """The image, filled where the mask is fully white. Its softened edges keep the image, to be blended."""
    match kind:
        case MaskFill.ORIGINAL:
            return image
        case MaskFill.SURROUNDINGS:
            filling = _surroundings(image, mask)
        case MaskFill.NOISE:
            filling = _noise(image.shape[1], image.shape[0], seed)
        case MaskFill.GREY:
            filling = np.full_like(image, GREY)
    return np.where((mask == mask.max())[..., None], filling, image)


def _surroundings(image: Pixels, mask: Mask) -> Pixels:
    """The colours of what is not masked, spread over what is: near ones where there are any, else farther ones."""
    kept = mask == 0
    if not kept.any():
        return image
    size = image.shape[1], image.shape[0]
    # Blurred colours need few pixels.
    small = PillowImage.fromarray(image * kept[..., None]), PillowImage.fromarray(kept.astype(np.uint8) * 255)
    for part in small:
        part.thumbnail((BLURRED_SIDE, BLURRED_SIDE), PillowImage.Resampling.BOX)
    result: NDArray[np.floating] = np.zeros(np.asarray(small[0]).shape, np.float32)
    for radius in BLUR_RADII:
        blur = ImageFilter.GaussianBlur(radius)
        colours, weight = (np.asarray(part.filter(blur), dtype=np.float32) for part in small)
        # Where little is known, colours of eight bits are rounded too much.
        share = np.clip(weight / MIN_WEIGHT, 0, 1)[..., None] if radius < BLUR_RADII[0] else np.float32(1)
        result = result + share * (colours * 255 / np.maximum(weight, 1)[..., None] - result)
    return scaled(result.clip(0, 255).round().astype(np.uint8), size)


def _noise(width: int, height: int, seed: int) -> Pixels:
    shape = (max(1, height // SPOT), max(1, width // SPOT), 3)
    spots = np.random.default_rng(seed).normal(float(GREY), DEVIATION, shape).clip(0, 255).astype(np.uint8)
    return scaled(spots, (width, height))


@dataclass(frozen=True, eq=False)
class FittedImage:
    """An image source of about the shape of `target`."""

    source: ImageSource
    target: Size
    mode: ResizeMode

    @property
    def size(self) -> Size:
        match self.mode:
            case ResizeMode.STRETCH:
                return self.source.size
            case ResizeMode.CROP:
                return _cropped_size(self.source.size, self.target)
            case ResizeMode.FILL:
                return self.target

    @property
    def decoding_bytes(self) -> int:
        return self.source.decoding_bytes + 3 * self.target[0] * self.target[1]

    def pixels(self, size: Size | None = None) -> Pixels:  # noqa: ARG002 - callers scale what has another size
        return fit(self.source.pixels(), self.target, self.mode)

    def transparent_pixels(self) -> tuple[Pixels, Opacity | None]:
        pixels, opacity = self.source.transparent_pixels()
        fitted = None if opacity is None else fit(opacity, self.target, self.mode)
        return fit(pixels, self.target, self.mode), fitted


@dataclass(frozen=True, eq=False)
class FilledImage:
    """An image source whose masked parts are replaced."""

    source: ImageSource
    mask: Callable[[], Mask]
    """Of the size of the source."""
    kind: MaskFill
    seed: int

    @property
    def size(self) -> Size:
        return self.source.size

    @property
    def decoding_bytes(self) -> int:
        return self.source.decoding_bytes

    def pixels(self, size: Size | None = None) -> Pixels:  # noqa: ARG002 - callers scale what has another size
        return fill(self.source.pixels(), self.mask(), self.kind, self.seed)

    def transparent_pixels(self) -> tuple[Pixels, Opacity | None]:
        return self.pixels(), None
