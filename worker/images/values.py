"""Images in memory: the inputs of a request, and rendered images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from shared.models.capabilities import Size

#: RGB of shape (height, width, 3).
Pixels = NDArray[np.uint8]


#: Of shape (height, width): 255 where to repaint, 0 elsewhere.
Mask = NDArray[np.uint8]
#: Of shape (height, width): 255 is opaque, 0 transparent.
Opacity = NDArray[np.uint8]


class ImageSource(Protocol):
    """An input image that is decoded on demand. Raises InvalidImage and StorageUnavailable."""

    @property
    def size(self) -> Size:
        """As displayed. Decodes nothing."""
        ...

    @property
    def decoding_bytes(self) -> int:
        """How much memory decoding takes."""
        ...

    def pixels(self, size: Size | None = None) -> Pixels:
        """Upright, and scaled to `size` if given. Every call reads and decodes anew: the image may be large."""
        ...

    def transparent_pixels(self) -> tuple[Pixels, Opacity | None]:
        """Upright, not composited on white; and the opacity, None if the image is opaque everywhere."""
        ...


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image source that is in memory already."""

    array: Pixels

    @property
    def size(self) -> Size:
        return self.array.shape[1], self.array.shape[0]

    @property
    def decoding_bytes(self) -> int:
        return self.array.size

    def pixels(self, size: Size | None = None) -> Pixels:  # noqa: ARG002 - callers scale what has another size
        return self.array

    def transparent_pixels(self) -> tuple[Pixels, Opacity | None]:
        return self.array, None


class Inputs:
    """The input images and the mask of a request. The mask has the size of the first image.

    They are decoded on first access, which raises what image sources raise.
    """

    def __init__(
        self, images: Sequence[Pixels | ImageSource] = (), mask: Mask | Callable[[], Mask] | None = None
    ) -> None:
        self.sources = tuple(DecodedImage(image) if isinstance(image, np.ndarray) else image for image in images)
        self._mask = mask

    @cached_property
    def images(self) -> tuple[Pixels, ...]:
        """All images in memory at once. To hold only one at a time, use `sources`."""
        return tuple(source.pixels() for source in self.sources)

    @cached_property
    def mask(self) -> Mask | None:
        return self._mask() if callable(self._mask) else self._mask

    def decode_all(self) -> Self:
        self.images, self.mask  # noqa: B018
        return self


@dataclass(frozen=True)
class RenderedImage:
    pixels: Pixels
    seed: int
    flagged: bool = False
    """Whether the safety checker rejects it: flagged images are withheld."""
    opacity: Opacity | None = None
    """None if it is opaque everywhere. Formats without transparency show it on white."""
