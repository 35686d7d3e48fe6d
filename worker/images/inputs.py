"""What came with a request, as backends take it."""

import io
from dataclasses import dataclass
from functools import cached_property, partial

from shared.errors import InvalidImage
from shared.jobs.requests import Job
from shared.models.capabilities import Size
from shared.storage.image_headers import ImageHeader, read_header
from shared.storage.inputs import InputStore
from worker.images import decoding
from worker.images.values import Inputs, Mask, Pixels


@dataclass(frozen=True)
class InputReader:
    """Raises InvalidImage for whatever cannot be used, and StorageUnavailable."""

    store: InputStore
    max_pixels: int

    def size(self, job: Job) -> Size | None:
        """Of the first image, as it is shown; None without one. Decodes nothing."""
        if not job.request.image:
            return None
        data = self.store.read(job, job.request.image[0])
        return read_header(io.BytesIO(data), self.max_pixels).size

    def read(self, job: Job) -> Inputs:
        """Nothing of it is read before it is asked for."""
        request, mask = job.request, None
        images = [UploadedImage(self, job, reference) for reference in request.image]
        if request.mask is not None:
            mask = partial(self._mask, job, request.mask, images[0])
        return Inputs(images, mask)

    def _mask(self, job: Job, reference: str, image: "UploadedImage") -> Mask:
        """White is where to repaint, and what is transparent is not white."""
        mask = decoding.mask(self.store.read(job, reference), self.max_pixels)
        if (mask.shape[1], mask.shape[0]) != image.size:
            raise InvalidImage("The mask must be of the same size as the image.")
        if not mask.any():
            raise InvalidImage("Nothing in the mask is white, so nothing would be repainted.")
        return mask


class UploadedImage:
    """An image in the store."""

    def __init__(self, reader: InputReader, job: Job, reference: str) -> None:
        self._reader = reader
        self._job = job
        self._reference = reference
        self._data = b""

    @property
    def size(self) -> Size:
        return self._header.size

    @property
    def cost(self) -> int:
        return decoding.memory(self._header)

    def pixels(self, size: Size | None = None) -> Pixels:
        data, self._data = self._data or self._read(), b""
        return decoding.rgb(data, self._reader.max_pixels, size)

    @cached_property
    def _header(self) -> ImageHeader:
        # As a rule it is decoded next.
        self._data = self._read()
        return read_header(io.BytesIO(self._data), self._reader.max_pixels)

    def _read(self) -> bytes:
        return self._reader.store.read(self._job, self._reference)
