"""Encodes thumbnails, which lists of images show."""

import io

from PIL import Image

from worker.images.values import Pixels

#: Small and fast rather than faithful.
QUALITY, METHOD = 80, 2


def encode_thumbnail(pixels: Pixels, width: int) -> bytes:
    """A WebP file of this width, without metadata."""
    height, full_width, _ = pixels.shape
    size = width, max(1, round(height * width / full_width))
    file = io.BytesIO()
    # Reduced by a whole factor first, which is a multiple faster for large images.
    small = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    small.save(file, "WEBP", quality=QUALITY, method=METHOD)
    return file.getvalue()
