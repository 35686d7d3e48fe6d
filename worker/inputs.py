"""Pictures that came with a request, read with care: whoever sent them may mean harm."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from shared.capabilities import Size
from shared.errors import InvalidImage
from shared.headers import Header, read_header
from shared.inputs import InputStore
from shared.schemas import Job
from worker.backends.base import Inputs, Mask, Pixels

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Reader:
    """Raises InvalidImage for whatever cannot be used."""

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
        images = tuple(_on(self._opened(job, reference), "white") for reference in request.image)
        mask = self._mask(job, request.mask, images[0]) if request.mask is not None else None
        return Inputs(images, mask)

    def _mask(self, job: Job, reference: str, image: Pixels) -> Mask:
        """White is where to repaint, and what is transparent is not white."""
        mask: Mask = np.where(_on(self._opened(job, reference), "black").mean(axis=2) >= 128, 255, 0).astype(np.uint8)
        if mask.shape != image.shape[:2]:
            raise InvalidImage("The mask must be of the same size as the picture.")
        if not mask.any():
            raise InvalidImage("Nothing in the mask is white, so nothing would be repainted.")
        return mask

    def _opened(self, job: Job, reference: str) -> Image.Image:
        data = self.store.read(job, reference)
        header = read_header(io.BytesIO(data), self.max_pixels)
        try:
            return _decoded(data, header)
        # Pillow's decoders raise whatever they stumble over.
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            KeyError,
            IndexError,
            TypeError,
            Image.DecompressionBombError,
        ):
            raise InvalidImage("The picture is broken or incomplete.") from None


def _decoded(data: bytes, header: Header) -> Image.Image:
    """Upright, of 8 bits a channel, with no more than the pixels that its header told."""
    with Image.open(io.BytesIO(data), formats=[header.kind]) as file:
        if file.size != (header.stored_width, header.stored_height):
            raise InvalidImage("The picture tells two sizes.")
        file.load()
        image: Image.Image = file
        if file.mode.startswith("I"):
            # Of 16 bits; Pillow's own conversion cuts off what is brighter than 255.
            image = Image.fromarray((np.asarray(file).astype(np.uint32) >> 8).astype(np.uint8))
        upright = _UPRIGHT.get(header.orientation)
        return image.transpose(upright) if upright is not None else image.copy()


def _on(image: Image.Image, colour: str) -> Pixels:
    """RGB, with that colour where it is transparent."""
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, colour)
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
