"""Decodes images from untrusted sources: they may be malicious."""

import io
from typing import Literal

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from shared.errors import InvalidImage, InvalidOutput
from shared.jobs.types import MaskMode
from shared.models.capabilities import Size
from shared.storage.image_headers import ImageHeader, read_header
from worker.images.colour_profiles import MAX_PROFILE_BYTES, to_srgb
from worker.images.png_chunks import pixel_chunks
from worker.images.values import Mask, Pixels

#: The limit for a provider's image: eight times the largest that any provider makes.
MAX_PIXELS = 32_000_000

#: The peak memory per pixel of decoding, flattening, scaling and converting to RGB, buffers of Pillow and libwebp
#: included: the maximum measured over all modes.
_BYTES_PER_PIXEL, _WEBP_BYTES_PER_PIXEL = 10, 17

#: Undoes each EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: The colour behind transparent pixels.
Background = Literal["black", "white"]
_BLACK, _WHITE = np.uint8(0), np.uint8(255)
#: Every channel has the same weight: a mask's white is not a matter of perceived brightness.
_MEAN = (1 / 3, 1 / 3, 1 / 3, 0)


def decode_provider_image(data: bytes) -> Pixels:
    """Raises InvalidOutput."""
    try:
        return decode_rgb(data, MAX_PIXELS)
    except InvalidImage as error:
        raise invalid_output(error) from error


def invalid_output(error: InvalidImage) -> InvalidOutput:
    return InvalidOutput(f"The provider sent an invalid image. {error.detail}")


def decoding_bytes(header: ImageHeader) -> int:
    """How much memory it takes to decode the image."""
    bytes_per_pixel = _WEBP_BYTES_PER_PIXEL if header.format == "WEBP" else _BYTES_PER_PIXEL
    return bytes_per_pixel * header.stored_width * header.stored_height


def decode_rgb(
    data: bytes, max_pixels: int, size: Size | None = None, background: Background | None = "white"
) -> Pixels:
    """In sRGB, upright, scaled to `size` if given, on the background where the image is transparent.

    Without a background, transparent pixels have the colours that the file gives them (see `decode_opacity`).

    Raises InvalidImage if the image is not a PNG, JPEG or WebP (whatever its name), has too many pixels, or is broken.
    """
    return np.asarray(_decode(data, max_pixels, background, size)[0], dtype=np.uint8)


def decode_opacity(data: bytes, max_pixels: int) -> Mask | None:
    """255 where the image is opaque, 0 where it is transparent; upright. None for images without transparency.

    Raises as `decode_rgb` does.
    """
    _, opacity = _decode(data, max_pixels, None)
    return None if opacity is None or opacity.getextrema() == (255, 255) else np.asarray(opacity, dtype=np.uint8)


def decode_mask(data: bytes, max_pixels: int, mode: MaskMode = MaskMode.WHITE) -> Mask:
    """255 where to repaint, 0 elsewhere; upright. That is where the image is transparent, or where it is white or black
    and not transparent. Raises as `decode_rgb` does.
    """
    if mode is MaskMode.TRANSPARENT:
        opacity = decode_opacity(data, max_pixels)
        header = read_header(io.BytesIO(data), max_pixels)
        return np.zeros(header.size[::-1], np.uint8) if opacity is None else np.where(opacity < 128, _WHITE, _BLACK)
    is_black = mode is MaskMode.BLACK
    grey = _decode(data, max_pixels, "white" if is_black else "black")[0].convert("L", _MEAN)
    return np.asarray(grey.point(lambda value: 255 if (value >= 128) is not is_black else 0), dtype=np.uint8)


def soften(mask: Mask, radius: int) -> Mask:
    """With values in between near the edge of what is repainted."""
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(radius)), dtype=np.uint8)


def _decode(
    data: bytes, max_pixels: int, background: Background | None, size: Size | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """The image in sRGB, and its opacity unless there is a background."""
    header = read_header(io.BytesIO(data), max_pixels)
    if size is not None and header.orientation >= 5:
        size = size[1], size[0]
    try:
        image, opacity, profile = _opened(data, header, size)
        if background is not None and opacity is not None:
            image, opacity = _composite(image, opacity, background), None
        image = to_srgb(_scaled(image, size), profile)
    # Pillow raises all of these on broken files; the assertion fails without a palette.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        AssertionError,
        Image.DecompressionBombError,
    ):
        raise InvalidImage("The image is broken or incomplete.") from None
    transpose = _UPRIGHT.get(header.orientation)
    if transpose is not None:
        image, opacity = image.transpose(transpose), opacity and opacity.transpose(transpose)
    return image, opacity


def _scaled(image: Image.Image, size: Size | None) -> Image.Image:
    if size is None or image.size == size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=1.1)


def _opened(
    data: bytes, header: ImageHeader, size: Size | None
) -> tuple[Image.Image, Image.Image | None, bytes | None]:
    """L, RGB or CMYK with 8 bits per channel, of the size that the header declares; its opacity; the ICC profile."""
    profile = None
    if header.format == "PNG":
        data, profile = pixel_chunks(data, MAX_PROFILE_BYTES)
    with Image.open(io.BytesIO(data), formats=[header.format]) as image:
        # Nothing is decompressed before this check: Pillow may read another size from the file than we did.
        if image.size != (header.stored_width, header.stored_height):
            raise InvalidImage("The image declares two different sizes.")
        if size is not None and header.format == "JPEG":
            # Decodes straight to 1/2, 1/4 or 1/8 of the size, as long as that is not smaller than `size`.
            image.draft(None, size)
        opacity = _color_key_opacity(image, data, header)
        image.load()
        return *_split(image, opacity), profile or image.info.get("icc_profile")


def _split(image: Image.Image, opacity: Image.Image | None) -> tuple[Image.Image, Image.Image | None]:
    match image.mode:
        case "P" | "PA":
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        case "1":
            image = image.convert("L")
        # Pillow's own conversion clips values above 255.
        case "I;16" | "I;16B" | "I":
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    match image.mode:
        case "LA":
            return image.getchannel("L"), image.getchannel("A")
        case "RGBA":
            return image.convert("RGB"), image.getchannel("A")
    return image, opacity


def _composite(image: Image.Image, opacity: Image.Image, background: Background) -> Image.Image:
    flat = Image.new("L" if image.mode == "L" else "RGB", image.size, background)
    flat.paste(image, mask=opacity)
    return flat


def _color_key_opacity(image: Image.Image, data: bytes, header: ImageHeader) -> Image.Image | None:
    """0 where a PNG has its transparent colour (tRNS, PNG 11.3.1.1), 255 elsewhere; None without one or with a palette.

    Pillow compares that colour with values that it has converted already.
    """
    key = image.info.get("transparency") if header.format == "PNG" else None
    match image.mode, key:
        case (("1" | "L"), int()):
            # Pillow scales samples of less than 8 bits to 8, but the transparent value only if it has 1 bit.
            grey = key if image.mode == "1" else key * 255 // (2**header.bit_depth - 1)
            return image.convert("L").point([0 if value == grey else 255 for value in range(256)])
        case "I;16", int():
            return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
        case "RGB", tuple():
            has_16_bits = header.bit_depth == 16
            matches = _equal(image, [value >> 8 for value in key] if has_16_bits else key)
            if has_16_bits:
                # Read the low bytes as if they were the high ones.
                with Image.open(io.BytesIO(data), formats=["PNG"]) as low_bytes:
                    low_bytes.tile = [tile._replace(args="RGB;16L") for tile in low_bytes.tile]
                    matches = ImageChops.darker(matches, _equal(low_bytes, [value & 255 for value in key]))
            return ImageChops.invert(matches)
    return None


def _equal(image: Image.Image, colour: tuple[int, ...] | list[int]) -> Image.Image:
    """255 where the image has this colour, 0 elsewhere."""
    channels = [
        channel.point([255 if value == wanted else 0 for value in range(256)])
        for channel, wanted in zip(image.split(), colour, strict=True)
    ]
    return ImageChops.darker(ImageChops.darker(channels[0], channels[1]), channels[2])
