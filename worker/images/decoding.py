"""Images that come from elsewhere, turned into pixels with care: whoever sent them may mean harm."""

import io

import numpy as np
from PIL import Image, ImageChops

from shared.errors import InvalidImage, InvalidOutput
from shared.models.capabilities import Size
from shared.storage.image_headers import ImageHeader, read_header
from worker.images.colour_profiles import MAX_PROFILE_BYTES, in_srgb
from worker.images.png_chunks import bare
from worker.images.values import Mask, Pixels

#: Of a provider's image: eight times the largest that any makes.
MAX_PIXELS = 32_000_000

#: What each pixel of an image takes while it is decoded, made opaque, scaled and turned into RGB: as measured
#: of all modes, with all that Pillow and the decoders of WebP have at the same time.
_BYTES_PER_PIXEL, _WEBP_BYTES_PER_PIXEL = 10, 17

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
#: Each channel weighs the same: what is white to a mask is no question of how bright it looks.
_MEAN = (1 / 3, 1 / 3, 1 / 3, 0)


def decode(data: bytes) -> Pixels:
    """What a provider sent. Raises InvalidOutput."""
    try:
        return rgb(data, MAX_PIXELS)
    except InvalidImage as error:
        raise unusable(error) from error


def unusable(error: InvalidImage) -> InvalidOutput:
    return InvalidOutput(f"The provider sent no image that can be used. {error.detail}")


def memory(header: ImageHeader) -> int:
    """How many bytes it takes to decode such an image."""
    each = _WEBP_BYTES_PER_PIXEL if header.format == "WEBP" else _BYTES_PER_PIXEL
    return each * header.stored_width * header.stored_height


def rgb(data: bytes, max_pixels: int, size: Size | None = None) -> Pixels:
    """In the colours of sRGB, upright, scaled to that size; white where it is transparent.

    Raises InvalidImage for what is no PNG, JPEG or WebP, whatever it is called, has more pixels, or is broken.
    """
    return np.asarray(_decoded(data, max_pixels, "white", size), dtype=np.uint8)


def mask(data: bytes, max_pixels: int) -> Mask:
    """255 where it is white, upright; what is transparent is not. Raises as `rgb` does."""
    grey = _decoded(data, max_pixels, "black", None).convert("L", _MEAN)
    return np.asarray(grey.point(lambda value: 255 if value >= 128 else 0), dtype=np.uint8)


def _decoded(data: bytes, max_pixels: int, ground: str, size: Size | None) -> Image.Image:
    header = read_header(io.BytesIO(data), max_pixels)
    if size is not None and header.orientation >= 5:
        size = size[1], size[0]
    try:
        image, profile = _opaque(data, header, ground, size)
        image = in_srgb(_scaled(image, size), profile)
    # Pillow's decoders raise whatever they stumble over.
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, Image.DecompressionBombError):
        raise InvalidImage("The image is broken or incomplete.") from None
    turn = _UPRIGHT.get(header.orientation)
    return image if turn is None else image.transpose(turn)


def _scaled(image: Image.Image, size: Size | None) -> Image.Image:
    if size is None or image.size == size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=1.1)


def _opaque(data: bytes, header: ImageHeader, ground: str, size: Size | None) -> tuple[Image.Image, bytes | None]:
    """L, RGB or CMYK of 8 bits a channel, and of no more pixels than its header told; with its ICC profile."""
    profile = None
    if header.format == "PNG":
        data, profile = bare(data, MAX_PROFILE_BYTES)
    with Image.open(io.BytesIO(data), formats=[header.format]) as image:
        # Nothing is unpacked before this: a file may tell decoders another size than it told us.
        if image.size != (header.stored_width, header.stored_height):
            raise InvalidImage("The image tells two sizes.")
        if size is not None and header.format == "JPEG":
            # Decoded at once at the half, the quarter or the eighth that is no smaller than what is wanted.
            image.draft(None, size)
        opacity = _opacity(image, data, header)
        image.load()
        return _on(image, opacity, ground), profile or image.info.get("icc_profile")


def _on(image: Image.Image, opacity: Image.Image | None, ground: str) -> Image.Image:
    match image.mode:
        case "P" | "PA":
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        case "1":
            image = image.convert("L")
        # Pillow's own conversion cuts off what is brighter than 255.
        case "I;16" | "I;16B" | "I":
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("LA", "RGBA"):
        opacity = image.getchannel("A")
        image = image.getchannel("L") if image.mode == "LA" else image
    if opacity is None:
        return image
    flat = Image.new("L" if image.mode == "L" else "RGB", image.size, ground)
    flat.paste(image, mask=opacity)
    return flat


def _opacity(image: Image.Image, data: bytes, header: ImageHeader) -> Image.Image | None:
    """0 where a PNG has the one value that it calls transparent (PNG 11.3.1.1), which Pillow compares with what it has
    made of the values. None where it calls none so, and where it has a palette."""
    key = image.info.get("transparency") if header.format == "PNG" else None
    match image.mode, key:
        case (("1" | "L"), int()):
            # Pillow spreads out shades of less than eight bits, but of their key only that of one bit.
            shade = key if image.mode == "1" else key * 255 // (2**header.bit_depth - 1)
            return image.convert("L").point([0 if value == shade else 255 for value in range(256)])
        case "I;16", int():
            return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
        case "RGB", tuple():
            deep = header.bit_depth == 16
            same = _equal(image, [value >> 8 for value in key] if deep else key)
            if deep:
                # The lower halves of the values, read as if they were the upper ones.
                with Image.open(io.BytesIO(data), formats=["PNG"]) as lower:
                    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
                    same = ImageChops.darker(same, _equal(lower, [value & 255 for value in key]))
            return ImageChops.invert(same)
    return None


def _equal(image: Image.Image, colour: tuple[int, ...] | list[int]) -> Image.Image:
    """255 where an image has this colour, 0 elsewhere."""
    channels = [
        channel.point([255 if value == wanted else 0 for value in range(256)])
        for channel, wanted in zip(image.split(), colour, strict=True)
    ]
    return ImageChops.darker(ImageChops.darker(channels[0], channels[1]), channels[2])
