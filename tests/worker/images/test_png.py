"""PNG files: identical pixels, and texts that other tools find."""

import io
import struct
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from worker.images.png import PngEncoder

Pixels = NDArray[np.uint8]
encode_png = PngEncoder().encode
NOISE = np.random.default_rng(5).integers(0, 256, (40, 60, 3), np.uint8)
DOT = np.array([[[1, 2, 3]]], np.uint8)


def opened(file: bytes) -> PngImageFile:
    image = Image.open(io.BytesIO(file))
    assert isinstance(image, PngImageFile)
    image.load()
    return image


def decoded(file: bytes) -> Pixels:
    return np.asarray(opened(file))


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 8
    while start < len(file):
        (length,) = struct.unpack_from(">I", file, start)
        yield file[start + 4 : start + 8], file[start + 8 : start + 8 + length]
        start += 12 + length


def pictogram(side: int) -> Pixels:
    """A disc on a flat background with a little noise, as a decoder paints it."""
    down, across = np.mgrid[:side, :side] / side - 0.5
    disc = (down**2 + across**2 < 0.1)[..., None] * np.array([180.0, -60, -40])
    noise = np.random.default_rng(2).normal(0, 1, (side, side, 3))
    return (np.array([40, 80, 200]) + disc + noise).clip(0, 255).astype(np.uint8)


sides = st.integers(1, 40)
images = st.tuples(sides, sides, st.sampled_from([3, 4])).flatmap(lambda shape: arrays(np.uint8, shape))
printable = st.characters(codec="latin-1", exclude_categories=["Cc", "Cf", "Zs"])
keywords = st.lists(st.text(printable, min_size=1, max_size=8), min_size=1, max_size=8).map(" ".join)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@settings(deadline=None)
@given(images)
def test_any_image_decodes_to_the_same_pixels(pixels: Pixels) -> None:
    assert np.array_equal(decoded(encode_png(pixels)), pixels)


@pytest.mark.parametrize(
    "view",
    [
        lambda pixels: pixels[::-1],
        lambda pixels: pixels[:, ::2],
        lambda pixels: pixels[..., ::-1],
        lambda pixels: pixels.transpose(1, 0, 2),
        lambda pixels: pixels.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        np.asfortranarray,
    ],
    ids=["upside down", "every other column", "reversed channels", "transposed", "channels first", "columns first"],
)
def test_pixels_may_have_any_memory_layout(view: Callable[[Pixels], Pixels]) -> None:
    assert np.array_equal(decoded(encode_png(view(NOISE))), view(NOISE))


def test_fast_compression_keeps_files_small() -> None:
    default = io.BytesIO()
    Image.fromarray(pictogram(256)).save(default, "PNG")
    assert len(encode_png(pictogram(256))) <= 1.25 * len(default.getvalue())


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(keywords, texts, max_size=4))
def test_any_text_is_read_back_unchanged(written: dict[str, str]) -> None:
    assert opened(encode_png(DOT, written)).text == written


@pytest.mark.parametrize("text", ["", "two\nlines", "a" * 50_000, "héllo, «wörld»", "日本語 🐱", "long 🐱 " * 5_000])
def test_texts_of_every_kind_are_read_back_unchanged(text: str) -> None:
    assert opened(encode_png(DOT, {"parameters": text})).text == {"parameters": text}


def test_texts_precede_the_pixels_in_the_given_order() -> None:
    file = encode_png(DOT, {"parameters": "a cat", "imagegen": '{"seed": 1}', "Title": "猫"})
    assert [kind for kind, _ in chunks(file)] == [b"IHDR", b"tEXt", b"tEXt", b"iTXt", b"IDAT", b"IEND"]
    assert list(opened(file).text) == ["parameters", "imagegen", "Title"]


@pytest.mark.parametrize("text", ["a cat", "smörgås", "two\nlines"])
def test_latin_text_is_stored_where_the_oldest_readers_find_it(text: str) -> None:
    assert (b"tEXt", b"Comment\0" + text.encode("latin-1")) in list(chunks(encode_png(DOT, {"Comment": text})))
