"""Converts images from the colour space of their ICC profile to sRGB."""

import io
from functools import cache

from PIL import Image, ImageChops, ImageCms

#: Printer profiles have a megabyte or two; larger ones are ignored.
MAX_PROFILE_BYTES = 8 << 20
#: The names of these modes in ICC profiles.
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
#: sRGB profiles differ from each other by this much, which is invisible: such images keep their pixels.
_MAX_SRGB_DIFFERENCE = 2


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB, converted by the ICC profile if there is one. A broken or mismatched profile is ignored."""
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
    if mode == "RGB" and _max_difference(transform) <= _MAX_SRGB_DIFFERENCE:
        return image
    return ImageCms.applyTransform(image, transform) or image


def _max_difference(transform: ImageCms.ImageCmsTransform) -> int:
    after = ImageCms.applyTransform(_samples(), transform) or _samples()
    return max(ImageChops.difference(_samples(), after).tobytes())


@cache
def _samples() -> Image.Image:
    """A regular grid of colours."""
    levels = range(0, 256, 15)
    cube = bytes(value for red in levels for green in levels for blue in levels for value in (red, green, blue))
    return Image.frombytes("RGB", (len(levels), len(levels) ** 2), cube)
