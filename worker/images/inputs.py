"""Reads the input images of a job from storage."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

from shared.errors import InvalidImage
from shared.jobs.job import Job
from shared.jobs.types import ResizeMode
from shared.models.capabilities import Size
from shared.storage.image_headers import ImageHeader, read_header
from shared.storage.inputs import InputStore
from worker.images.decoding import decode_mask, decode_opacity, decode_rgb, decoding_bytes, soften
from worker.images.fitting import FilledImage, FittedImage, fit
from worker.images.values import ImageSource, Inputs, Mask, Opacity, Pixels


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
        request = job.request
        images: list[ImageSource] = [StoredInputImage(self, job, reference) for reference in request.image]
        if not images:
            return Inputs()
        first = images[0]
        mask: Callable[[], Mask] | None = None
        if request.mask is not None:
            # Read once for all that need it.
            mask = cache(partial(self._mask, job, request.mask, first))
            if request.mask_fill is not None:
                first = FilledImage(first, mask, request.mask_fill, request.seed or 0)
        # What is rendered in an area of the image has the shape of that.
        if request.resize_mode is not None and request.width and request.height and request.mask_padding is None:
            first, mask = self._fitted(first, mask, (request.width, request.height), request.resize_mode)
        return Inputs([first, *images[1:]], mask)

    def _fitted(
        self, image: ImageSource, mask: Callable[[], Mask] | None, size: Size, mode: ResizeMode
    ) -> tuple[ImageSource, Callable[[], Mask] | None]:
        return FittedImage(image, size, mode), mask and (lambda: fit(mask(), size, mode))

    def _mask(self, job: Job, reference: str, image: ImageSource) -> Mask:
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
