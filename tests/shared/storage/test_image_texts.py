"""The texts in images of other tools are read, and hostile images cost little."""

import io
import json
import struct
import time
import zlib
from collections.abc import Callable

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.storage.image_texts import MAX_TEXT_BYTES, MAX_TEXTS, read_texts

INFOTEXT = "ein rotes Herz ♥, (größer:1.2)\nNegative prompt: text\nSteps: 20, Sampler: Euler a, Seed: 1"
PIXEL = Image.new("RGB", (1, 1))


def saved(file_format: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    PIXEL.save(file, file_format, **options)
    return file


def png(add: Callable[[PngInfo], object]) -> io.BytesIO:
    info = PngInfo()
    add(info)
    return saved("PNG", pnginfo=info)


def exif(comment: bytes) -> Image.Exif:
    data = Image.Exif()
    data[0x0131] = "a tool"
    data.get_ifd(0x8769)[0x9286] = comment
    return data


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(*chunks: bytes) -> io.BytesIO:
    start = saved("PNG").getvalue()
    return io.BytesIO(start[:33] + b"".join(chunks) + start[33:])


@pytest.mark.parametrize("compressed", [False, True])
def test_the_parameters_of_the_web_ui_are_read(compressed: bool) -> None:
    assert read_texts(png(lambda info: info.add_text("parameters", "a cat", zip=compressed))) == {"parameters": "a cat"}
    international = png(lambda info: info.add_itxt("parameters", INFOTEXT, zip=compressed))
    assert read_texts(international) == {"parameters": INFOTEXT}


def test_the_graph_of_comfyui_is_read() -> None:
    graph = json.dumps({"3": {"class_type": "KSampler", "inputs": {"seed": 5}}})

    def add(info: PngInfo) -> None:
        info.add_text("prompt", graph)
        info.add_text("workflow", graph * 1000)

    assert read_texts(png(add)) == {"prompt": graph, "workflow": graph * 1000}


def test_utf_8_where_the_standard_says_latin_1_is_read() -> None:
    file = with_chunks(chunk(b"tEXt", b"parameters\0" + INFOTEXT.encode()), chunk(b"tEXt", b"old\0\xe9"))

    assert read_texts(file) == {"parameters": INFOTEXT, "old": "é"}


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le"])
def test_comments_in_exif_are_read(file_format: str, encoding: str) -> None:
    file = saved(file_format, exif=exif(b"UNICODE\0" + INFOTEXT.encode(encoding)))

    assert read_texts(file) == {"parameters": INFOTEXT}


def test_a_comment_of_a_jpeg_is_read() -> None:
    assert read_texts(saved("JPEG", comment=b"made with love"))["comment"] == "made with love"


def test_images_without_texts_have_none() -> None:
    assert [read_texts(saved(name)) for name in ("PNG", "JPEG", "WEBP")] == [{}, {}, {}]
    assert read_texts(io.BytesIO(b"<html>")) == {}


@pytest.mark.parametrize(
    "hostile",
    [
        # Made when it is needed: it takes seconds.
        lambda: chunk(b"zTXt", b"bomb\0\0" + zlib.compress(b"0" * 500_000_000, 1)),
        chunk(b"tEXt", b"long\0" + b"0" * (MAX_TEXT_BYTES + 1)),
        chunk(b"zTXt", b"broken\0\0not zlib"),
        chunk(b"iTXt", b"short\0\1"),
        chunk(b"eXIf", b"II*\0\xff\xff\xff\xff"),
        chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\x69\x87\4\0\1\0\0\0\x08\0\0\0" * 100),
        b"\xff\xff\xff\xfftEXt",
    ],
)
def test_what_is_hostile_or_broken_is_left_out(hostile: bytes | Callable[[], bytes]) -> None:
    before, after = chunk(b"tEXt", b"before\0it"), chunk(b"tEXt", b"after\0it")
    found = hostile() if callable(hostile) else hostile

    assert read_texts(with_chunks(before, found, after)).keys() <= {"before", "after"}
    assert len(read_texts(with_chunks(*[chunk(b"tEXt", b"%d\0x" % i) for i in range(1000)]))) == MAX_TEXTS


def test_texts_together_have_a_limit() -> None:
    texts = [chunk(b"tEXt", b"%d\0" % i + b"x" * (MAX_TEXT_BYTES // 3)) for i in range(10)]

    assert len(read_texts(with_chunks(*texts))) == 3


def test_exif_entries_that_all_name_one_directory_cost_one_look_at_it() -> None:
    count = 1_000_000 // 12
    directory = struct.pack("<H", 65535) + struct.pack("<HHII", 0x8769, 4, 1, 8) * count
    file = with_chunks(chunk(b"eXIf", b"II*\0" + struct.pack("<I", 8) + directory))

    started = time.process_time()
    assert read_texts(file) == {}
    assert time.process_time() - started < 1


def test_texts_that_are_too_long_once_inflated_count_as_texts() -> None:
    bomb = chunk(b"zTXt", b"bomb\0\0" + zlib.compress(b"0" * (2 * MAX_TEXT_BYTES)))
    file = with_chunks(*[bomb] * MAX_TEXTS, chunk(b"tEXt", b"after\0it"))

    assert read_texts(file) == {}
