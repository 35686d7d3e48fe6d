"""Images in memory: those that came with a request, and those that were made."""

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


class Source(Protocol):
    """An image that came with a request. Raises InvalidImage and StorageUnavailable."""

    @property
    def size(self) -> Size:
        """As it is shown. Decodes nothing."""
        ...

    @property
    def cost(self) -> int:
        """The bytes that it takes to decode it."""
        ...

    def pixels(self, size: Size | None = None) -> Pixels:
        """Upright, and of that size where there is one. Read and decoded anew each time: it may be large."""
        ...


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image that is in memory."""

    whole: Pixels

    @property
    def size(self) -> Size:
        return self.whole.shape[1], self.whole.shape[0]

    @property
    def cost(self) -> int:
        return self.whole.size

    def pixels(self, size: Size | None = None) -> Pixels:  # noqa: ARG002 - whoever wants another scales it
        return self.whole


class Inputs:
    """What came with a request. The mask has the size of the first image.

    Decoded when it is first asked for, which raises as sources do.
    """

    def __init__(self, images: Sequence[Pixels | Source] = (), mask: Mask | Callable[[], Mask] | None = None) -> None:
        self.sources = tuple(Decoded(image) if isinstance(image, np.ndarray) else image for image in images)
        self._mask = mask

    @cached_property
    def images(self) -> tuple[Pixels, ...]:
        """All of them at once; who sends them elsewhere takes one after the other from `sources`."""
        return tuple(source.pixels() for source in self.sources)

    @cached_property
    def mask(self) -> Mask | None:
        return self._mask() if callable(self._mask) else self._mask

    def decoded(self) -> Self:
        """The same, with all of it in memory."""
        self.images, self.mask  # noqa: B018
        return self


@dataclass(frozen=True)
class RenderedImage:
    pixels: Pixels
    seed: int
    flagged: bool = False
    """Whether the safety checker objects: then it is withheld."""
