"""What came with a request, as backends take it."""

import io
from dataclasses import dataclass

import numpy as np

from shared.capabilities import Size
from shared.errors import InvalidImage
from shared.headers import read_header
from shared.inputs import InputStore
from shared.schemas import Job
from worker.backends.base import Inputs, Mask, Pixels
from worker.backends.decoding import on, upright


@dataclass(frozen=True)
class Reader:
    """Raises InvalidImage for whatever cannot be used, and StorageUnavailable."""

    store: InputStore
    max_pixels: int

    def size(self, job: Job) -> Size | None:
        """Of the first picture, as it is shown; None without one. Decodes nothing."""
        if not job.request.image:
            return None
        data = self.store.read(job, job.request.image[0])
        return read_header(io.BytesIO(data), self.max_pixels).size

    def read(self, job: Job) -> Inputs:
        request = job.request
        images = tuple(self._pixels(job, reference, "white") for reference in request.image)
        mask = self._mask(job, request.mask, images[0]) if request.mask is not None else None
        return Inputs(images, mask)

    def _mask(self, job: Job, reference: str, image: Pixels) -> Mask:
        """White is where to repaint, and what is transparent is not white."""
        bright = self._pixels(job, reference, "black").mean(axis=2) >= 128
        if bright.shape != image.shape[:2]:
            raise InvalidImage("The mask must be of the same size as the picture.")
        if not bright.any():
            raise InvalidImage("Nothing in the mask is white, so nothing would be repainted.")
        mask: Mask = np.where(bright, 255, 0).astype(np.uint8)
        return mask

    def _pixels(self, job: Job, reference: str, ground: str) -> Pixels:
        return on(upright(self.store.read(job, reference), self.max_pixels), ground)
