"""Renders only the area that a mask marks, as large as the model makes images, and puts it back into its image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from shared.jobs.requests import GenerationRequest
from worker.engines.base import Engine, JobWatch
from worker.images.scaling import scaled
from worker.images.values import Inputs, Mask, Pixels, RenderedImage


@dataclass(frozen=True)
class Area:
    """A part of an image, in pixels."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, mask: Mask, padding: int, ratio: float) -> "Area":
        """What the mask marks and so many pixels around it, then as much more as `ratio` (width by height) needs."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        height, width = mask.shape
        top, bottom = max(0, int(rows[0]) - padding), min(height, int(rows[-1]) + 1 + padding)
        left, right = max(0, int(columns[0]) - padding), min(width, int(columns[-1]) + 1 + padding)
        wanted_width, wanted_height = round((bottom - top) * ratio), round((right - left) / ratio)
        left, right = _widened(left, right, wanted_width, width)
        top, bottom = _widened(top, bottom, wanted_height, height)
        return cls(left, top, right, bottom)

    @property
    def size(self) -> tuple[int, int]:
        return self.right - self.left, self.bottom - self.top

    def of(self, array: Pixels) -> Pixels:
        """A view."""
        return array[self.top : self.bottom, self.left : self.right]


def _widened(start: int, end: int, wanted: int, limit: int) -> tuple[int, int]:
    """At least as long as wanted, as far as the image reaches, with the given part in the middle if possible."""
    length = min(max(wanted, end - start), limit)
    start = min(max(0, start - (length - (end - start)) // 2), limit - length)
    return start, start + length


def render_masked_area(
    engine: Engine, request: GenerationRequest, inputs: Inputs, mask: Mask, watch: JobWatch
) -> Sequence[RenderedImage]:
    """Images of the size of the input image. Raises what the engine raises."""
    image, *others = inputs.images
    width, height = request.size
    area = Area.around(mask, request.mask_padding or 0, width / height)
    rendered = engine.generate(request, Inputs([area.of(image), *others], area.of(mask)), watch)
    return [replace(one, pixels=_pasted(image, mask, area, one.pixels)) for one in rendered]


def _pasted(image: Pixels, mask: Mask, area: Area, pixels: Pixels) -> Pixels:
    """The image with these pixels in the area, as far as the mask marks it."""
    pasted, alpha = image.copy(), area.of(mask)[..., None].astype(np.float32) / 255
    before = area.of(image).astype(np.float32)
    area.of(pasted)[:] = (before + alpha * (scaled(pixels, area.size) - before)).round().astype(np.uint8)
    return pasted
