"""Colours as a file means them, in those that everything here takes them for: sRGB."""

import io
from functools import cache

from PIL import Image, ImageChops, ImageCms

#: Profiles of printers take a megabyte or two; larger ones are left alone.
MAX_PROFILE_BYTES = 8 << 20
#: What profiles call the colours of these modes.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
#: Profiles of sRGB itself differ by so much, which nobody sees: such images keep their pixels.
_SAME = 2


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, by the ICC profile where there is one. One that is broken or is for other colours says nothing."""
    if profile and len(profile) <= MAX_PROFILE_BYTES:
        try:
            return _converted(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    mode = _MODES.get(profile.profile.xcolor_space.strip())
    if mode == "RGB" and image.mode == "L":
        image = image.convert("RGB")
    if mode is None or image.mode != mode:
        return image.convert("RGB")
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "RGB" and _changes(transform) <= _SAME:
        return image
    return ImageCms.applyTransform(image, transform) or image


def _changes(transform: ImageCms.ImageCmsTransform) -> int:
    """By how much it changes what it changes most."""
    after = ImageCms.applyTransform(_samples(), transform) or _samples()
    return max(ImageChops.difference(_samples(), after).tobytes())


@cache
def _samples() -> Image.Image:
    """Colours from everywhere in the cube."""
    levels = range(0, 256, 15)
    cube = bytes(value for red in levels for green in levels for blue in levels for value in (red, green, blue))
    return Image.frombytes("RGB", (len(levels), len(levels) ** 2), cube)
