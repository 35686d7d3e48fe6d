"""Encodes RGB images as PNG files with text metadata."""

import io
import zlib
from collections.abc import Mapping

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from worker.images.values import Pixels

_NO_TEXTS: Mapping[str, str] = {}


def encode_png(pixels: Pixels, texts: Mapping[str, str] = _NO_TEXTS) -> bytes:
    """`texts` maps PNG keywords to texts, in the order of the file.

    Run-length compression takes a fifth to a third of the time of Pillow's default and, for what models paint, yields
    files of the same size. An encoder of our own was 2.4 times as fast on photos, which no waiting caller noticed.
    """
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=info)
    return file.getvalue()
