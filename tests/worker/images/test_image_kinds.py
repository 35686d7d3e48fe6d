"""Every kind of image that other programs write is decoded as intended."""

import functools
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from shared.errors import InvalidImage
from tests.api.images import encoded, half_mask, scene
from tests.worker.images.image_checks import Pixels
from worker.images.decoding import decode_mask, decode_rgb

SCENE = np.asarray(scene())
MOST = 10**7


def near(one: Pixels, other: Pixels, most: int = 8) -> bool:
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= most


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth: int, colour: int, rows: list[bytes], width: int, transparent: bytes | None = None) -> bytes:
    """Kinds of PNG that Pillow does not write."""
    head = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    key = chunk(b"tRNS", transparent) if transparent is not None else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + key + data + chunk(b"IEND", b"")


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of a display (ICC.1:2004, 7)."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\1\0" + bytes(79), b"cprt": b"text\0\0\0\0\0", b"wtpt": white, **tags}
    table, data, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += struct.pack(">4sII", name, at + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", at + len(data), b"none", 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    return head + bytes(28) + white[8:] + bytes(48) + table + data


def with_red_and_green_exchanged() -> bytes:
    """A profile in which the first channel is green."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"?").replace(b"gXYZ", b"rXYZ").replace(b"?", b"gXYZ")


LINEAR = b"curv\0\0\0\0\0\0\0\0"
EXCHANGED = with_red_and_green_exchanged()
LINEAR_GREY = profile(b"GRAY", {b"kTRC": LINEAR})
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


def text(kind: bytes, data: bytes) -> bytes:
    return chunk(kind, b"workflow\0" + data)


@functools.cache
def packed() -> bytes:
    """A bomb."""
    return zlib.compress(b"{" * 50_000_000)


@pytest.mark.parametrize(
    "more",
    [
        lambda: text(b"zTXt", b"\0" + zlib.compress(b"{" * 2_000_000)),
        lambda: text(b"zTXt", b"\0" + packed()),
        lambda: text(b"iTXt", b"\1\0\0\0" + packed()),
        lambda: b"".join(text(b"tEXt", b"x" * 1_000_000) for _ in range(70)),
        lambda: text(b"iCCP", b"\0" + packed()),
        lambda: text(b"iCCP", b"\0no profile"),
        lambda: chunk(b"tEXt", b"")[:-4] + b"odd!",
        lambda: chunk(b"sRGB", b"\0") + chunk(b"gAMA", b"\0\0\xb1\x8f") + chunk(b"pHYs", b""),
    ],
    ids=["long text", "bomb", "another bomb", "much text", "profile bomb", "no profile", "bad checksum", "others"],
)
def test_other_chunks_of_a_png_are_ignored(more: Callable[[], bytes]) -> None:
    data = encoded(scene())

    assert (decode_rgb(data[:33] + more() + data[33:], MOST) == SCENE).all()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True})])
def test_colours_are_converted_by_the_profile(kind: str, options: dict[str, int]) -> None:
    data = encoded(scene(), kind, icc_profile=EXCHANGED, **options)

    middle = decode_rgb(data, MOST)[10:20, 10:20]

    assert near(middle, SCENE[10:20, 10:20, [1, 0, 2]])


def test_transparent_images_are_converted_by_the_profile_too() -> None:
    clear = scene().convert("RGBA")
    clear.putalpha(half_mask())

    shown = decode_rgb(encoded(clear, icc_profile=EXCHANGED), MOST)

    assert (shown[:, :48] == 255).all()
    assert near(shown[:, 48:], SCENE[:, 48:, [1, 0, 2]])


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_is_converted_by_its_profile(mode: str) -> None:
    grey = Image.new("L", (8, 8), 128)
    deep = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    stored = {"L": grey, "LA": grey.convert("LA"), "I;16": deep}[mode]

    # Half of the light has the value 188 in sRGB.
    assert near(decode_rgb(encoded(stored, icc_profile=LINEAR_GREY), MOST), np.full((8, 8, 3), 188), 2)


@pytest.mark.parametrize("icc", [SRGB, LAB, LINEAR_GREY, b"no profile at all", b"\0" * 200], ids=len)
def test_srgb_and_unusable_profiles_change_no_pixel(icc: bytes) -> None:
    assert (decode_rgb(encoded(scene(), icc_profile=icc), MOST) == SCENE).all()


@pytest.mark.parametrize("icc", [SRGB, EXCHANGED, LINEAR_GREY])
def test_rgb_and_grey_profiles_are_ignored_for_cmyk(icc: bytes) -> None:
    data = encoded(scene().convert("CMYK"), "JPEG", quality=95, icc_profile=icc)

    assert near(decode_rgb(data, MOST)[10:20, 10:20], SCENE[10:20, 10:20])


def shades(depth: int) -> Iterator[bytes]:
    """Rows of eight values: the darkest, then the lightest."""
    for value in (0, 2**depth - 1):
        yield (int("".join(f"{value:0{depth}b}" * 8), 2)).to_bytes(depth, "big")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("bright", [False, True])
def test_only_the_transparent_grey_becomes_white(depth: int, bright: bool) -> None:
    key = struct.pack(">H", 2**depth - 1 if bright else 0)
    data = png(depth, 0, list(shades(depth)), 8, key)

    shown = decode_rgb(data, MOST)

    assert (shown[0] == (0 if bright else 255)).all()
    assert (shown[1] == 255).all()
    assert (decode_mask(data, MOST) == 0).all() or not bright


@pytest.mark.parametrize("depth", [8, 16])
def test_only_the_transparent_colour_becomes_white(depth: int) -> None:
    size = "B" if depth == 8 else "H"
    key, like_it, other = (7, 200, 9), (7, 200, 10), (200, 7, 9)
    if depth == 16:
        # The same in the upper eight bits.
        key, like_it, other = (7 << 8, 200 << 8, 9 << 8), (7 << 8, 200 << 8, (9 << 8) + 1), (200 << 8, 7 << 8, 9 << 8)
    rows = [struct.pack(f">3{size}", *colour) * 4 for colour in (key, like_it, other)]

    shown = decode_rgb(png(depth, 2, rows, 4, struct.pack(">3H", *key)), MOST)

    assert (shown[0] == 255).all()
    assert near(shown[1], np.full((4, 3), (7, 200, 9)), 1)
    assert near(shown[2], np.full((4, 3), (200, 7, 9)), 1)


@pytest.mark.parametrize(("colour", "opaque"), [(4, b"\x80\0\xff\xff"), (6, b"\x80\0\x80\0\x80\0\xff\xff")])
def test_sixteen_bit_images_with_transparency_are_decoded(colour: int, opaque: bytes) -> None:
    clear = opaque[:-2] + b"\0\0"

    shown = decode_rgb(png(16, colour, [opaque * 4, clear * 4], 4), MOST)

    assert (shown[0] == 128).all()
    assert (shown[1] == 255).all()


MASKS = {
    "1": encoded(half_mask().convert("1")),
    "L": encoded(half_mask()),
    "P": encoded(half_mask().convert("RGB").convert("P")),
    "RGB": encoded(half_mask().convert("RGB")),
    "LA": encoded(half_mask().convert("LA")),
    "RGBA": encoded(half_mask().convert("RGBA")),
    "strokes": encoded(Image.merge("LA", (Image.new("L", (96, 64), 255), half_mask()))),
    "I;16": encoded(Image.fromarray(np.asarray(half_mask()).astype(np.uint16) * 257)),
    "JPEG": encoded(half_mask(), "JPEG", quality=95),
    "CMYK": encoded(half_mask().convert("RGB").convert("CMYK"), "JPEG", quality=95),
    "WEBP": encoded(half_mask().convert("RGB"), "WEBP", lossless=True),
    "profile": encoded(half_mask(), icc_profile=LINEAR_GREY),
}


@pytest.mark.parametrize("mode", MASKS)
def test_a_mask_of_any_format_is_decoded(mode: str) -> None:
    assert (decode_mask(MASKS[mode], MOST) == np.asarray(half_mask())).all()


def test_the_first_of_several_images_in_a_jpeg_is_used() -> None:
    buffer = io.BytesIO()
    scene().save(buffer, "MPO", save_all=True, append_images=[half_mask().convert("RGB")], quality=95)

    assert near(decode_rgb(buffer.getvalue(), MOST)[10:20, 10:20], SCENE[10:20, 10:20])


@pytest.mark.parametrize(("frame", "depth"), [(0xC1, 12), (0xC2, 12), (0xC3, 8), (0xC7, 8), (0xCB, 16)])
def test_rare_kinds_of_jpeg_are_refused_with_the_reason(frame: int, depth: int) -> None:
    data = encoded(scene(), "JPEG")
    at = data.index(b"\xff\xc0")
    data = data[: at + 1] + bytes([frame]) + data[at + 2 : at + 4] + bytes([depth]) + data[at + 5 :]

    with pytest.raises(InvalidImage, match="Lossless and 12-bit"):
        decode_rgb(data, MOST)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_is_scaled_as_displayed(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = scene(960, 640) if orientation == 1 else scene(960, 640).transpose(Image.Transpose.ROTATE_90)

    small = decode_rgb(encoded(turned, kind, exif=exif, quality=95), MOST, (96, 64))

    assert small.shape == (64, 96, 3)
    assert near(small[10:20, 10:20], SCENE[10:20, 10:20])


def test_a_jpeg_is_decoded_at_no_more_than_twice_the_requested_size(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def record(image: Image.Image, *args: Any, **kwargs: Any) -> Image.Image:
        loaded.append(image.size)
        return resize(image, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", record)

    decode_rgb(encoded(scene(3000, 2000), "JPEG"), MOST, (300, 200))

    assert loaded == [(375, 250)]
