"""Test images, valid and invalid."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import requests
from PIL import Image, ImageDraw

from tests.stack import Api
from tests.worker.images.image_checks import Pixels

PROMPT = {"prompt": "x", "seed": "7"}


def scene(width: int = 96, height: int = 64) -> Image.Image:
    """An image with four different corners, so that rotations and flips are noticed."""
    image = Image.new("RGB", (width, height), "navy")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width // 2, height // 2), fill="red")
    draw.rectangle((width // 2, height // 2, width, height), fill="gold")
    return image


def half_mask(width: int = 96, height: int = 64) -> Image.Image:
    """A mask whose right half is white."""
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (width // 2, 0, width, height))
    return mask


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise_png(width: int, height: int, seed: int = 0) -> bytes:
    """A PNG that does not compress."""
    pixels: Pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return encoded(Image.fromarray(pixels), compress_level=0)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    data = zlib.compress(b"\0" * 1000)
    idat = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return head + idat + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def post_image(
    api: Api, image: bytes, mask: bytes | None = None, query: dict[str, str] | None = None, **fields: Any
) -> requests.Response:
    """Post a form."""
    files = {"image": ("in.png", image, "image/png")}
    files |= {"mask": ("mask.png", mask, "image/png")} if mask is not None else {}
    return api.http.post(
        f"{api.url}/api/img2img", params=query or {}, data={**PROMPT, **fields}, files=files, timeout=60
    )
