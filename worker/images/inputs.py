"""Reads the input images of a job from storage."""

import io
from dataclasses import dataclass
from functools import cached_property, partial

from shared.errors import InvalidImage
from shared.jobs.job import Job
from shared.models.capabilities import Size
from shared.storage.image_headers import ImageHeader, read_header
from shared.storage.inputs import InputStore
from worker.images.decoding import decode_mask, decode_opacity, decode_rgb, decoding_bytes, soften
from worker.images.values import Inputs, Mask, Opacity, Pixels


@dataclass(frozen=True)
class InputReader:
    """Raises InvalidImage for images that cannot be used, and StorageUnavailable."""

    store: InputStore
    max_pixels: int

    def first_image_size(self, job: Job) -> Size | None:
        """As displayed; None if the job has no input image. Decodes nothing."""
        if not job.request.image:
            return None
        data = self.store.read(job, job.request.image[0])
        return read_header(io.BytesIO(data), self.max_pixels).size

    def inputs(self, job: Job) -> Inputs:
        """Lazy: nothing is read from storage yet."""
        request, mask = job.request, None
        images = [StoredInputImage(self, job, reference) for reference in request.image]
        if request.mask is not None:
            mask = partial(self._mask, job, request.mask, images[0])
        return Inputs(images, mask)

    def _mask(self, job: Job, reference: str, image: "StoredInputImage") -> Mask:
        mode = job.request.mask_mode
        mask = decode_mask(self.store.read(job, reference), self.max_pixels, mode)
        if (mask.shape[1], mask.shape[0]) != image.size:
            raise InvalidImage("The mask must have the same size as the image.")
        if not mask.any():
            raise InvalidImage(f"The mask has no {mode} pixels, so there is nothing to repaint.")
        return soften(mask, job.request.mask_blur) if job.request.mask_blur else mask


class StoredInputImage:
    """An image source in storage."""

    def __init__(self, reader: InputReader, job: Job, reference: str) -> None:
        self._reader = reader
        self._job = job
        self._reference = reference
        self._data = b""

    @property
    def size(self) -> Size:
        return self._header.size

    @property
    def decoding_bytes(self) -> int:
        return decoding_bytes(self._header)

    def pixels(self, size: Size | None = None) -> Pixels:
        data, self._data = self._data or self._read(), b""
        return decode_rgb(data, self._reader.max_pixels, size)

    def transparent_pixels(self) -> tuple[Pixels, Opacity | None]:
        data, max_pixels = self._data or self._read(), self._reader.max_pixels
        return decode_rgb(data, max_pixels, background=None), decode_opacity(data, max_pixels)

    @cached_property
    def _header(self) -> ImageHeader:
        # Kept for `pixels`, which usually follows.
        self._data = self._read()
        return read_header(io.BytesIO(self._data), self._reader.max_pixels)

    def _read(self) -> bytes:
        return self._reader.store.read(self._job, self._reference)
