"""Encodes one PNG on several cores: bands of rows are filtered and compressed side by side."""

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL.PngImagePlugin import PngInfo

from worker.images.values import Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: 8 bits per sample, RGB, and the only methods of compression, filtering and (none) interlacing (PNG 11.2.1).
_RGB8 = bytes([8, 2, 0, 0, 0])
_PAETH = 4
_CHANNELS = 3
#: Window of 32 KiB, fastest level (RFC 1950).
_ZLIB_HEADER = b"\x78\x01"
_ADLER_MODULUS = 65_521
#: zlib's tables and window take about as long to set up as it takes to compress this much.
MIN_BAND_BYTES = 96 << 10
MAX_BANDS = 8


@dataclass(frozen=True)
class _Band:
    data: bytes
    """A part of the zlib stream that ends on a byte and refers to nothing before it."""
    filtered_bytes: int
    checksum: int
    """Adler-32 of the filtered rows."""


class BandEncoder:
    """Encodes one image at a time on several threads; zlib and numpy compute without the GIL.

    Every row gets the Paeth filter, which needs no trial of all five and gives files of about the size of Pillow's.
    """

    def __init__(self, threads: int) -> None:
        self._threads = min(threads, MAX_BANDS)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="png-band")

    def encode(self, pixels: Pixels, texts: Mapping[str, str]) -> bytes | None:
        """None for an image that is too small to gain anything."""
        height, width, _ = pixels.shape
        bands = min(self._threads, height, pixels.size // MIN_BAND_BYTES)
        if bands < 2:
            return None
        rows = np.ascontiguousarray(pixels).reshape(height, width * _CHANNELS)
        limits = [height * band // bands for band in range(bands + 1)]
        compressed = self._pool.map(lambda band: _compressed(rows, limits[band], limits[band + 1]), range(bands))
        return b"".join(_file(width, height, texts, list(compressed)))


def _compressed(rows: Pixels, top: int, bottom: int) -> _Band:
    above = rows[top - 1 : bottom - 1] if top else np.concatenate([np.zeros_like(rows[:1]), rows[: bottom - 1]])
    lines = np.empty((bottom - top, rows.shape[1] + 1), np.uint8)
    lines[:, 0] = _PAETH
    lines[:, 1:] = _paeth_residuals(rows[top:bottom], above)
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    data = deflate.compress(lines.data)
    data += deflate.flush(zlib.Z_FINISH if bottom == len(rows) else zlib.Z_FULL_FLUSH)
    return _Band(data, lines.size, zlib.adler32(lines.data))


def _paeth_residuals(rows: Pixels, above: Pixels) -> Pixels:
    """Rows minus the prediction of PNG 9.4: the one of left, up and corner that is nearest to left + up - corner.

    With `low` and `high` the lesser and the greater of left and up, that is low where corner is at least twice as far
    over low as under high, high the other way round, and corner between; a distance on the far side counts as 0. So no
    step needs more than 8 bits, nor a branch.
    """
    residuals = np.empty_like(rows)
    here, before = rows.reshape(-1), above.reshape(-1)
    left, up, corner = here[:-_CHANNELS], before[_CHANNELS:], before[:-_CHANNELS]
    low, high = np.minimum(left, up), np.maximum(left, up)
    over_low = np.subtract(corner, np.minimum(low, corner, out=low), out=low)
    under_high = np.subtract(np.maximum(high, corner, out=high), corner, out=high)
    is_low = (over_low >> 1 >= under_high).view(np.uint8)
    is_high = (under_high >> 1 >= over_low).view(np.uint8)
    over_low *= is_low
    under_high *= is_high
    rest = residuals.reshape(-1)[_CHANNELS:]
    np.subtract(here[_CHANNELS:], corner, out=rest)
    rest += over_low
    rest -= under_high
    # The end of a row was taken for the left of the next one. There left and corner are outside the image: up is left.
    residuals[:, :_CHANNELS] = rows[:, :_CHANNELS] - above[:, :_CHANNELS]
    return residuals


def _file(width: int, height: int, texts: Mapping[str, str], bands: Sequence[_Band]) -> Iterable[bytes]:
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    yield _SIGNATURE
    yield from _chunk(b"IHDR", struct.pack(">II", width, height) + _RGB8)
    for kind, content, *_ in info.chunks:
        yield from _chunk(kind, content)
    last = len(bands) - 1
    for number, band in enumerate(bands):
        end = struct.pack(">I", _adler32(bands)) if number == last else b""
        yield from _chunk(b"IDAT", b"" if number else _ZLIB_HEADER, band.data, end)
    yield from _chunk(b"IEND")


def _chunk(kind: bytes, *parts: bytes) -> Iterable[bytes]:
    checksum = zlib.crc32(kind)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return (struct.pack(">I", sum(map(len, parts))), kind, *parts, struct.pack(">I", checksum))


def _adler32(bands: Sequence[_Band]) -> int:
    """Of all bands together (RFC 1950: the low half sums the bytes, the high half sums the low half after each)."""
    low, high = 1, 0
    for band in bands:
        band_low, band_high = band.checksum & 0xFFFF, band.checksum >> 16
        high = (high + band_high + (low - 1) * band.filtered_bytes) % _ADLER_MODULUS
        low = (low + band_low - 1) % _ADLER_MODULUS
    return high << 16 | low
