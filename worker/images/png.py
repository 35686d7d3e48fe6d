"""Encodes images as PNG files with text metadata: bands of rows are filtered and compressed side by side."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from isal import isal_zlib
from PIL.PngImagePlugin import PngInfo

from worker.images.values import Pixels

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Bits per sample, and the only methods of compression, filtering and (none) interlacing (PNG 11.2.1).
_DEPTH, _METHODS = 8, bytes(3)
#: RGB and RGBA, by channels.
_COLOUR_TYPES = {3: 2, 4: 6}
_PAETH = 4
#: Window of 32 KiB, fastest level (RFC 1950).
_ZLIB_HEADER = b"\x78\x01"
_ADLER_MODULUS = 65_521
#: A band of this size takes 1 to 2 ms. Smaller ones are not worth waking another thread.
MIN_BAND_BYTES = 384 << 10
MAX_BANDS = 8
#: Rows that are filtered at once: few enough for a core's cache, and so many that threads seldom wait for the GIL
#: between them. On 16 slow cores, eight bands of noise take 7 ms, with a quarter of this 14: more than one thread.
_BLOCK_BYTES = 256 << 10
_NO_TEXTS: Mapping[str, str] = {}


@dataclass(frozen=True)
class _Band:
    data: bytes
    """A part of the zlib stream that ends on a byte and refers to nothing before it."""
    filtered_bytes: int
    checksum: int
    """Adler-32 of the filtered rows."""


class PngEncoder:
    """Encodes bands on several threads, because ISA-L and numpy compute without the GIL. Thread-safe.

    Every row gets the Paeth filter, and ISA-L compresses at its fastest: files are about as large as Pillow's, which
    tries five filters for each row, compresses with zlib and takes six times the CPU time (47 ms in the place of 8 for
    1024x1024).
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = min(threads, MAX_BANDS)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="png-band")

    def encode(self, pixels: Pixels, texts: Mapping[str, str] = _NO_TEXTS, *, in_bands: bool = True) -> bytes:
        """`pixels` are RGB or RGBA. `texts` maps PNG keywords to texts, in the order of the file.

        Images that are encoded at the same time take longer in bands, whose threads wait for the GIL.
        """
        height, width, channels = pixels.shape
        bands = max(1, min(self._threads, height, pixels.size // MIN_BAND_BYTES)) if in_bands else 1
        rows = np.ascontiguousarray(pixels).reshape(height, width * channels)
        limits = [height * band // bands for band in range(bands + 1)]
        run_all = self._pool.map if bands > 1 else map
        compressed = run_all(lambda band: _compressed(rows, limits[band], limits[band + 1], channels), range(bands))
        return b"".join(_file(pixels.shape, texts, list(compressed)))


def _compressed(rows: Pixels, top: int, bottom: int, channels: int) -> _Band:
    deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    block = max(1, _BLOCK_BYTES // rows.shape[1])
    data, checksum = list[bytes](), isal_zlib.adler32(b"")
    for first in range(top, bottom, block):
        lines = _filtered(rows, first, min(first + block, bottom), channels)
        data.append(deflate.compress(lines.data))
        checksum = isal_zlib.adler32(lines.data, checksum)
    data.append(deflate.flush(isal_zlib.Z_FINISH if bottom == len(rows) else isal_zlib.Z_FULL_FLUSH))
    return _Band(b"".join(data), (bottom - top) * (rows.shape[1] + 1), checksum)


def _filtered(rows: Pixels, top: int, bottom: int, channels: int) -> Pixels:
    above = rows[top - 1 : bottom - 1] if top else np.concatenate([np.zeros_like(rows[:1]), rows[: bottom - 1]])
    lines = np.empty((bottom - top, rows.shape[1] + 1), np.uint8)
    lines[:, 0] = _PAETH
    lines[:, 1:] = _paeth_residuals(rows[top:bottom], above, channels)
    return lines


def _paeth_residuals(rows: Pixels, above: Pixels, channels: int) -> Pixels:
    """Rows minus the prediction of PNG 9.4: the one of left, up and corner that is nearest to left + up - corner.

    With `low` and `high` the lesser and the greater of left and up, that is low where corner is at least twice as far
    over low as under high, high the other way round, and corner between; a distance on the far side counts as 0. So no
    step needs more than 8 bits, nor a branch.
    """
    residuals = np.empty_like(rows)
    here, before = rows.reshape(-1), above.reshape(-1)
    left, up, corner = here[:-channels], before[channels:], before[:-channels]
    low, high = np.minimum(left, up), np.maximum(left, up)
    over_low = np.subtract(corner, np.minimum(low, corner, out=low), out=low)
    under_high = np.subtract(np.maximum(high, corner, out=high), corner, out=high)
    is_low = (over_low >> 1 >= under_high).view(np.uint8)
    is_high = (under_high >> 1 >= over_low).view(np.uint8)
    over_low *= is_low
    under_high *= is_high
    rest = residuals.reshape(-1)[channels:]
    np.subtract(here[channels:], corner, out=rest)
    rest += over_low
    rest -= under_high
    # The end of a row was taken for the left of the next one. There left and corner are outside the image: up is left.
    residuals[:, :channels] = rows[:, :channels] - above[:, :channels]
    return residuals


def _file(shape: tuple[int, ...], texts: Mapping[str, str], bands: Sequence[_Band]) -> Iterable[bytes]:
    info = PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text)
    height, width, channels = shape
    yield _SIGNATURE
    yield from _chunk(b"IHDR", struct.pack(">IIBB", width, height, _DEPTH, _COLOUR_TYPES[channels]) + _METHODS)
    for kind, content, *_ in info.chunks:
        yield from _chunk(kind, content)
    last = len(bands) - 1
    for number, band in enumerate(bands):
        end = struct.pack(">I", _adler32(bands)) if number == last else b""
        yield from _chunk(b"IDAT", b"" if number else _ZLIB_HEADER, band.data, end)
    yield from _chunk(b"IEND")


def _chunk(kind: bytes, *parts: bytes) -> Iterable[bytes]:
    checksum = isal_zlib.crc32(kind)
    for part in parts:
        checksum = isal_zlib.crc32(part, checksum)
    return (struct.pack(">I", sum(map(len, parts))), kind, *parts, struct.pack(">I", checksum))


def _adler32(bands: Sequence[_Band]) -> int:
    """Of all bands together (RFC 1950: the low half sums the bytes, the high half sums the low half after each)."""
    low, high = 1, 0
    for band in bands:
        band_low, band_high = band.checksum & 0xFFFF, band.checksum >> 16
        high = (high + band_high + (low - 1) * band.filtered_bytes) % _ADLER_MODULUS
        low = (low + band_low - 1) % _ADLER_MODULUS
    return high << 16 | low
