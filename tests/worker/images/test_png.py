"""What a PNG file of the worker promises to those who open it."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from PIL.PngImagePlugin import PngImageFile

from worker.images.png import encode, parameters_text

Pixels = NDArray[np.uint8]
SIDE = 512
DOT = np.array([[[1, 2, 3]]], np.uint8)


def opened(file: bytes) -> PngImageFile:
    image = Image.open(io.BytesIO(file))
    assert isinstance(image, PngImageFile)
    image.load()
    return image


def decoded(file: bytes) -> Pixels:
    return np.asarray(opened(file))


def chunks(file: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of every chunk, each with the right length and checksum."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(file):
        (length,) = struct.unpack_from(">I", file, at)
        kind, data = file[at + 4 : at + 8], file[at + 8 : at + 8 + length]
        assert file[at + 8 + length : at + 12 + length] == struct.pack(">I", zlib.crc32(kind + data))
        yield kind, data
        at += 12 + length


def by_pillow(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def clouds(rng: np.random.Generator) -> NDArray[np.float64]:
    """Colour that varies at every scale, shape (SIDE, SIDE, 3), around 110."""
    total = np.full((SIDE, SIDE, 3), 110.0)
    for cells in (4, 8, 16, 32, 64, 128):
        for channel in range(3):
            layer = Image.fromarray(rng.normal(0, 90 / cells**0.75, (cells, cells)).astype(np.float32))
            total[..., channel] += np.asarray(layer.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return total


def photo(grain: float) -> Pixels:
    rng = np.random.default_rng(1)
    return (clouds(rng) + rng.normal(0, grain, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


def drawing(side: int) -> Image.Image:
    image = Image.new("RGB", (side * 4, side * 4), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((side, side, side * 3, side * 3), "crimson", "black", side // 8)
    draw.polygon([(0, side * 4), (side * 2, side * 2), (side * 4, side * 4)], "seagreen")
    draw.rectangle((side * 3, 0, side * 7 // 2, side), "gold")
    return image.resize((side, side), Image.Resampling.LANCZOS)


def generated_pictogram(side: int) -> Pixels:
    """A drawing as a decoder gives it: softened, and with a little life in flat areas."""
    soft = np.asarray(drawing(side).filter(ImageFilter.GaussianBlur(0.7)), np.float64)
    return (soft + np.random.default_rng(2).normal(0, 1, soft.shape)).clip(0, 255).astype(np.uint8)


def enlarged(resampling: Image.Resampling) -> Pixels:
    return np.asarray(Image.fromarray(generated_pictogram(128)).resize((SIDE, SIDE), resampling))


def gradient(grain: float = 0) -> Pixels:
    down, across = np.mgrid[:SIDE, :SIDE] * (255 / SIDE)
    slope = (down + across) / 2 if grain else np.zeros_like(down)
    noise = np.random.default_rng(3).normal(0, grain, (SIDE, SIDE, 3))
    return (np.stack([down, across, slope], -1) + noise).clip(0, 255).astype(np.uint8)


def vignette() -> Pixels:
    down, across = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    return np.asarray((1 - down**2 - across**2)[..., None] * np.array([250, 180, 120]), np.uint8)


def diagonal() -> Pixels:
    down, across = np.mgrid[:SIDE, :SIDE]
    return np.stack([(across + down) // 8, (across * 2 + down) // 12, 255 - (across + down) // 16], -1).astype(np.uint8)


def sawtooth() -> Pixels:
    down, across = np.mgrid[:SIDE, :SIDE]
    wave = (across * 3 + down * 2)[..., None] ^ np.array([50, 100, 150])
    return np.asarray(wave % 256, np.uint8)


def noise() -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


REALISTIC = {
    "photo, little grain": lambda: photo(0.7),
    "photo, much grain": lambda: photo(3.0),
    "photo without grain": lambda: photo(0),
    "one colour": lambda: np.full((SIDE, SIDE, 3), 77, np.uint8),
    "drawing": lambda: np.asarray(drawing(SIDE)),
    "generated pictogram": lambda: generated_pictogram(SIDE),
    "generated pictogram, small": lambda: generated_pictogram(128),
    "generated pictogram, enlarged to squares": lambda: enlarged(Image.Resampling.NEAREST),
    "generated pictogram, enlarged smoothly": lambda: enlarged(Image.Resampling.BICUBIC),
    "gradient along the axes": gradient,
    "gradient along a diagonal, with grain": lambda: gradient(grain=1),
    "vignette": vignette,
    "noise": noise,
}
realistic = pytest.mark.parametrize("image", REALISTIC.values(), ids=REALISTIC)

sides = st.integers(1, 40)
images = st.builds(
    lambda pixels, down, across: pixels.repeat(down, axis=0).repeat(across, axis=1),
    st.tuples(sides, sides, st.just(3)).flatmap(lambda shape: arrays(np.uint8, shape)),
    st.integers(1, 3),
    st.integers(1, 3),
)
printable = st.characters(codec="latin-1", exclude_categories=["Cc", "Cf", "Zs"])
keywords = st.lists(st.text(printable, min_size=1, max_size=8), min_size=1, max_size=8).map(" ".join)
no_text = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@given(images)
def test_any_image_decodes_to_the_same_pixels(pixels: Pixels) -> None:
    assert np.array_equal(decoded(encode(pixels, {})), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 2), (33, 1), (700, 300), (2, 300_000)])
def test_a_image_of_any_proportions_decodes_to_the_same_pixels(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert np.array_equal(decoded(encode(pixels, {})), pixels)


@realistic
def test_realistic_images_decode_to_the_same_pixels(image: Callable[[], Pixels]) -> None:
    assert np.array_equal(decoded(encode(image(), {})), image())


@pytest.mark.parametrize(
    "view",
    [
        lambda pixels: pixels[::-1],
        lambda pixels: pixels[:, ::2],
        lambda pixels: pixels[..., ::-1],
        lambda pixels: pixels.transpose(1, 0, 2),
        lambda pixels: pixels.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        lambda pixels: pixels.transpose(1, 2, 0).copy().transpose(2, 0, 1),
        np.asfortranarray,
    ],
    ids=[
        "upside down",
        "every other column",
        "reversed channels",
        "transposed",
        "channels first",
        "rows last",
        "columns first",
    ],
)
def test_pixels_may_lie_in_memory_in_any_order(view: Callable[[Pixels], Pixels]) -> None:
    pixels = view(noise()[:40, :60])
    assert np.array_equal(decoded(encode(pixels, {})), pixels)


@given(images)
def test_the_checksums_of_a_file_are_right(pixels: Pixels) -> None:
    parts = dict(chunks(encode(pixels, {})))
    height, width, _ = pixels.shape
    assert list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    assert len(zlib.decompress(parts[b"IDAT"])) == height * (width * 3 + 1)


@realistic
def test_the_checksums_of_a_realistic_file_are_right(image: Callable[[], Pixels]) -> None:
    zlib.decompress(dict(chunks(encode(image(), {})))[b"IDAT"])


@realistic
def test_a_file_is_at_most_a_quarter_larger_than_pillows(image: Callable[[], Pixels]) -> None:
    assert len(encode(image(), {})) <= 1.25 * len(by_pillow(image()))


@pytest.mark.parametrize("image", [diagonal, sawtooth])
def test_a_image_of_repeats_takes_at_most_a_thirtieth_of_its_pixels(image: Callable[[], Pixels]) -> None:
    assert len(encode(image(), {})) <= image().nbytes / 30


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0, 3), np.uint8),
    ],
)
def test_a_wrong_shape_is_refused(pixels: Pixels) -> None:
    with pytest.raises(ValueError, match=r"must have the shape \(height, width, 3\)"):
        encode(pixels, {})


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.uint16, np.bool_])
def test_a_wrong_type_of_pixel_is_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="must be uint8"):
        encode(np.zeros((4, 4, 3), dtype), {})


@given(st.dictionaries(keywords, st.text(no_text), max_size=4))
def test_any_text_is_read_back_as_it_was(texts: dict[str, str]) -> None:
    assert opened(encode(DOT, texts)).text == texts


@pytest.mark.parametrize("text", ["", "two\nlines", "a" * 50_000, "héllo, «wörld»", "日本語 🐱", "long 🐱 " * 5_000])
def test_texts_of_every_kind_are_read_back(text: str) -> None:
    assert opened(encode(DOT, {"parameters": text})).text == {"parameters": text}


def test_texts_stand_before_the_pixels_in_the_order_given() -> None:
    file = encode(DOT, {"parameters": "a cat", "imagegen": '{"seed": 1}', "Title": "猫"})
    assert [kind for kind, _ in chunks(file)] == [b"IHDR", b"tEXt", b"tEXt", b"iTXt", b"IDAT", b"IEND"]
    assert list(opened(file).text) == ["parameters", "imagegen", "Title"]


@pytest.mark.parametrize("text", ["a cat", "smörgås", "two\nlines"])
def test_latin_text_is_stored_so_that_the_oldest_readers_find_it(text: str) -> None:
    assert (b"tEXt", b"Comment\0" + text.encode("latin-1")) in list(chunks(encode(DOT, {"Comment": text})))


@pytest.mark.parametrize("keyword", ["a", "k" * 79, "Creation Time", "größe"])
def test_a_keyword_may_be_79_printable_latin_characters(keyword: str) -> None:
    assert opened(encode(DOT, {keyword: "猫"})).text == {keyword: "猫"}


@pytest.mark.parametrize(
    "keyword", ["", "k" * 80, " a", "a ", "a  b", "a\nb", "a\n", "a\0b", "a\x7f", "a\xa0b", "猫", "a\tb", "a\x85"]
)
def test_a_keyword_that_no_png_may_hold_is_refused(keyword: str) -> None:
    with pytest.raises(ValueError, match="keyword"):
        encode(DOT, {keyword: "text"})


@pytest.mark.parametrize("text", ["a\0b", "猫\0", "\ud800"])
def test_a_text_that_no_png_may_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"NUL|surrogates"):
        encode(DOT, {"Comment": text})


def parameters(
    *,
    negative_prompt: str | None = None,
    steps: int | None = 20,
    sampler: str | None = "Euler a",
    guidance: float | None = 4,
    model: str = "starter",
) -> str:
    return parameters_text(
        prompt="a cat, red: yes",
        negative_prompt=negative_prompt,
        steps=steps,
        sampler=sampler,
        guidance=guidance,
        seed=42,
        width=128,
        height=96,
        model=model,
        version="imagegen 0.1.0",
    )


def test_parameters_read_as_the_web_ui_writes_them() -> None:
    assert parameters(negative_prompt="dog, blur") == (
        "a cat, red: yes\n"
        "Negative prompt: dog, blur\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 4.0, Seed: 42, Size: 128x96, Model: starter, Version: imagegen 0.1.0"
    )


@pytest.mark.parametrize("negative_prompt", [None, ""])
def test_parameters_leave_out_what_was_not_used(negative_prompt: str | None) -> None:
    text = parameters(negative_prompt=negative_prompt, steps=None, sampler=None, guidance=None)
    assert text == "a cat, red: yes\nSeed: 42, Size: 128x96, Model: starter, Version: imagegen 0.1.0"


@pytest.mark.parametrize(
    ("model", "written"),
    [
        ("a, b", '"a, b"'),
        ("C:starter", '"C:starter"'),
        ("two\nlines", r'"two\nlines"'),
        ('say "x", 猫', r'"say \"x\", 猫"'),
        ("plain name", "plain name"),
    ],
)
def test_a_value_with_punctuation_of_the_format_is_quoted(model: str, written: str) -> None:
    assert f"Model: {written}, Version:" in parameters(model=model)
