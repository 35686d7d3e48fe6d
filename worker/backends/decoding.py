"""Pictures that come from elsewhere, turned into pixels with care: whoever sent them may mean harm."""

import io

import numpy as np
from PIL import Image

from shared.errors import InvalidImage, InvalidOutput
from shared.headers import Header, read_header
from worker.backends.base import Pixels

#: Of a provider's picture: eight times the largest that any makes.
MAX_PIXELS = 32_000_000

#: What undoes each orientation of EXIF.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes) -> Pixels:
    """What a provider sent. Raises InvalidOutput."""
    try:
        return on(upright(data, MAX_PIXELS), "white")
    except InvalidImage as error:
        raise InvalidOutput(f"The provider sent no picture that can be used. {error.detail}") from error


def upright(data: bytes, max_pixels: int) -> Image.Image:
    """A PNG, JPEG or WebP, by what the bytes are and not by what they are called, turned as its EXIF says.

    Raises InvalidImage for any other, one of more pixels, and one that is broken or incomplete.
    """
    header = read_header(io.BytesIO(data), max_pixels)
    try:
        image = _loaded(data, header)
    # Pillow's decoders raise whatever they stumble over.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, Image.DecompressionBombError):
        raise InvalidImage("The picture is broken or incomplete.") from None
    turn = _UPRIGHT.get(header.orientation)
    return image if turn is None else image.transpose(turn)


def on(image: Image.Image, colour: str) -> Pixels:
    """RGB, with that colour where the picture is transparent."""
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, colour)
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    return np.asarray(image.convert("RGB"), dtype=np.uint8)


def _loaded(data: bytes, header: Header) -> Image.Image:
    """Of 8 bits a channel, and no more pixels than its header told."""
    with Image.open(io.BytesIO(data), formats=[header.kind]) as image:
        # Nothing is unpacked before this: a file may tell decoders another size than it told us.
        if image.size != (header.stored_width, header.stored_height):
            raise InvalidImage("The picture tells two sizes.")
        image.load()
        if image.mode.startswith("I"):
            # Of 16 bits; Pillow's own conversion cuts off what is brighter than 255.
            return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
        return image.copy()
