"""PNG files that are encoded in bands on several threads: the same file but for the limits of the bands."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.worker.images.test_png import chunks, decoded, pictogram
from worker.images import png
from worker.images.png import PngEncoder
from worker.images.values import Pixels

SIDES = st.integers(1, 40)
IMAGES = st.tuples(SIDES, SIDES, st.sampled_from([3, 4])).flatmap(lambda shape: arrays(np.uint8, shape))
TEXTS = {"parameters": "a cat", "imagegen": '{"seed": 1}', "Title": "猫"}
SIDE = 768


def in_bands(pixels: Pixels, threads: int = 4) -> bytes:
    return PngEncoder(threads).encode(pixels, TEXTS)


@settings(deadline=None, max_examples=60)
@given(IMAGES, st.integers(2, 8))
def test_any_image_decodes_to_the_same_pixels(pixels: Pixels, threads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png, "MIN_BAND_BYTES", 1)
        file = PngEncoder(threads).encode(pixels)

    assert np.array_equal(decoded(file), pixels)


@pytest.mark.parametrize("view", [lambda p: p[::-1], lambda p: p.transpose(1, 0, 2), np.asfortranarray])
def test_pixels_may_have_any_memory_layout(view: object) -> None:
    assert callable(view)
    pixels = view(pictogram(SIDE))

    assert np.array_equal(decoded(in_bands(pixels)), pixels)


def test_all_bands_are_one_stream_with_one_checksum() -> None:
    pixels = pictogram(SIDE)
    stream = b"".join(content for kind, content in chunks(in_bands(pixels)) if kind == b"IDAT")
    reader = zlib.decompressobj()

    filtered = reader.decompress(stream)

    # zlib verifies the checksum only where it ends.
    assert reader.eof
    assert reader.unused_data == b""
    assert len(filtered) == SIDE * (1 + 3 * SIDE)


def test_every_chunk_has_its_checksum() -> None:
    file, start = in_bands(pictogram(SIDE)), 8
    while start < len(file):
        (length,) = struct.unpack_from(">I", file, start)
        body, end = file[start + 4 : start + 8 + length], start + 12 + length
        assert struct.unpack_from(">I", file, end - 4) == (zlib.crc32(body),)
        start = end


def test_bands_change_nothing_but_the_compressed_pixels() -> None:
    pixels = pictogram(SIDE)

    plain, banded = (list(chunks(PngEncoder(threads).encode(pixels, TEXTS))) for threads in (1, 4))

    assert [kind for kind, _ in plain].count(b"IDAT") == 1
    assert [kind for kind, _ in banded].count(b"IDAT") == 4
    assert [chunk for chunk in plain if chunk[0] != b"IDAT"] == [chunk for chunk in banded if chunk[0] != b"IDAT"]


def test_files_are_about_as_small_as_without_bands() -> None:
    pixels = pictogram(SIDE)

    assert len(in_bands(pixels, threads=8)) <= 1.1 * len(in_bands(pixels, threads=1))


def test_small_images_are_not_divided() -> None:
    assert [kind for kind, _ in chunks(in_bands(pictogram(128), threads=8))].count(b"IDAT") == 1


def test_images_beside_others_are_encoded_on_one_thread() -> None:
    pixels = pictogram(SIDE)

    file = PngEncoder(4).encode(pixels, TEXTS, in_bands=False)

    assert file == PngEncoder(1).encode(pixels, TEXTS)
