"""Reads the texts that tools write into images: prompts and settings, not pixels."""

import itertools
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from shared.storage.image_headers import MAX_CHUNKS, MAX_EXIF_BYTES

#: Limits of what is read from one image, readable or not. Graphs of ComfyUI take some hundred kilobytes.
MAX_TEXTS, MAX_TEXT_BYTES = 64, 1 << 20
#: Cameras write about fifty.
MAX_EXIF_ENTRIES = 1000
#: The key under which AUTOMATIC1111's web UI keeps a prompt and its settings, also where a format has no keys.
PARAMETERS = "parameters"
#: TIFF tags (EXIF 2.3): the pointer to the Exif directory, and UserComment in it.
_EXIF_DIRECTORY, _USER_COMMENT = 0x8769, 0x9286
_ENCODINGS = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16", b"\0" * 8: "utf-8"}


def read_texts(file: BinaryIO) -> dict[str, str]:
    """Texts by key, of a PNG, JPEG or WebP. Whatever is malformed or too long is left out."""
    file.seek(0)
    start, texts, left = file.read(12), dict[str, str](), MAX_TEXT_BYTES
    with suppress(struct.error):
        for key, text in itertools.islice(_texts(start, file), MAX_TEXTS):
            left -= len(text)
            if key and left >= 0:
                texts.setdefault(key, text)
    return texts


def _texts(start: bytes, file: BinaryIO) -> Iterator[tuple[str, str]]:
    if start.startswith(b"\x89PNG"):
        yield from _png_texts(file)
    elif start.startswith(b"\xff\xd8"):
        yield from _jpeg_texts(file)
    elif start[8:] == b"WEBP":
        yield from _webp_texts(file)


def _png_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    file.seek(8)
    for _ in range(MAX_CHUNKS):
        length, kind = struct.unpack(">I4s", file.read(8))
        following = file.tell() + length + 4
        if kind in _PNG_TEXTS and length <= MAX_TEXT_BYTES:
            yield _png_text(kind, file.read(length))
        elif kind == b"eXIf":
            yield from _exif_texts(file.read(min(length, MAX_EXIF_BYTES)))
        elif kind == b"IEND":
            return
        file.seek(following)


def _png_text(kind: bytes, data: bytes) -> tuple[str, str]:
    """Without a key if it is malformed, so that it counts: inflating what is too long takes time as well."""
    try:
        return _PNG_TEXTS[kind](data)
    except (ValueError, zlib.error):
        return "", ""


def _text(data: bytes) -> tuple[str, str]:
    """Text in a PNG (PNG 11.3.3.2). Many tools write UTF-8, though the standard says Latin-1."""
    key, _, text = data.partition(b"\0")
    return key.decode("latin-1"), _decoded(text)


def _compressed_text(data: bytes) -> tuple[str, str]:
    key, _, rest = data.partition(b"\0")
    return key.decode("latin-1"), _decoded(_decompressed(rest[1:]))


def _international_text(data: bytes) -> tuple[str, str]:
    key, _, rest = data.partition(b"\0")
    is_compressed = rest[:1] == b"\1"
    # The language and the translated key come before the text.
    _, _, text = rest[2:].split(b"\0", 2)
    return key.decode("latin-1"), (_decompressed(text) if is_compressed else text).decode()


_PNG_TEXTS = {b"tEXt": _text, b"zTXt": _compressed_text, b"iTXt": _international_text}


def _decompressed(data: bytes) -> bytes:
    """Raises ValueError for more than a text may have."""
    decompressor = zlib.decompressobj()
    text = decompressor.decompress(data, MAX_TEXT_BYTES)
    if not decompressor.eof:
        raise ValueError
    return text


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _jpeg_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    file.seek(2)
    for _ in range(MAX_CHUNKS):
        lead, marker, length = struct.unpack(">BBH", file.read(4))
        if lead != 0xFF or marker == 0xDA:
            return
        data = file.read(max(0, length - 2))
        if marker == 0xFE:
            yield "comment", _decoded(data)
        elif marker == 0xE1 and data.startswith(b"Exif\0\0"):
            yield from _exif_texts(data[6:])


def _webp_texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    file.seek(12)
    for _ in range(MAX_CHUNKS):
        kind, length = struct.unpack("<4sI", file.read(8))
        # Chunks start at even offsets.
        following = file.tell() + length + length % 2
        if kind == b"EXIF":
            yield from _exif_texts(file.read(min(length, MAX_EXIF_BYTES)).removeprefix(b"Exif\0\0"))
        file.seek(following)


def _exif_texts(exif: bytes) -> Iterator[tuple[str, str]]:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    _, directory = _entry(exif, start, order, _EXIF_DIRECTORY)
    if directory:
        count, offset = _entry(exif, directory, order, _USER_COMMENT)
        if count > 8:
            yield PARAMETERS, _comment(exif[offset : offset + count])


def _entry(exif: bytes, start: int, order: str, wanted: int) -> tuple[int, int]:
    """Count, and value or offset, of the first entry of a directory with this tag; zeros if it has none."""
    (entries,) = struct.unpack_from(f"{order}H", exif, start)
    for number in range(min(entries, MAX_EXIF_ENTRIES)):
        tag, _, count, value = struct.unpack_from(f"{order}HHII", exif, start + 2 + 12 * number)
        if tag == wanted:
            return count, value
    return 0, 0


def _comment(data: bytes) -> str:
    """The first eight bytes name the encoding. Unicode is UTF-16, whatever the byte order of the file."""
    encoding, text = _ENCODINGS.get(data[:8], "latin-1"), data[8:]
    if encoding == "utf-16":
        # Prompts are mostly ASCII, whose high bytes are zero.
        encoding = "utf-16-be" if text[::2].count(0) >= text[1::2].count(0) else "utf-16-le"
    return text.decode(encoding, "replace").rstrip("\0")
