"""Pictures that come from elsewhere, turned into pixels with care."""

import io

import numpy as np
from PIL import Image

from shared.errors import InvalidOutput
from worker.backends.base import Pixels

#: Four times the largest that any provider makes.
MAX_PIXELS = 32_000_000


def decode(data: bytes) -> Pixels:
    """From PNG, JPEG or WebP, by what the bytes are and not by what they are called. Raises InvalidOutput."""
    kind = _format(data)
    if kind is None:
        raise InvalidOutput("The provider sent what is no PNG, JPEG or WebP picture.")
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidOutput(f"The provider sent {image.width}x{image.height} pixels, more than makes sense.")
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    # Pillow's decoders raise whatever they stumble over.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, Image.DecompressionBombError) as error:
        raise InvalidOutput("The provider sent a picture that is broken.") from error
    except Image.DecompressionBombWarning as error:
        raise InvalidOutput("The provider sent a picture that is larger than makes sense.") from error


def _format(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None
