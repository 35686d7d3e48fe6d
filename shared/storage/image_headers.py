"""Read the size and orientation of an image from its header, to refuse bad images before they are decoded."""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from shared.errors import InvalidImage

_PNG = b"\x89PNG\r\n\x1a\n"
#: Encoders that write chunks of 8 KB make 2560 of an image of 20 MB.
MAX_CHUNKS = 100_000
MAX_EXIF_BYTES = 1 << 20
#: JPEG markers that start a frame (ITU T.81, table B.1); the excluded ones are the tables DHT, JPG and DAC.
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Those that every decoder reads: baseline, extended and progressive, the last two also with arithmetic coding.
_SUPPORTED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True)
class ImageHeader:
    format: str
    stored_width: int
    stored_height: int
    orientation: int = 1
    """As in EXIF: 1 is upright, 5 and above swap the sides."""
    bit_depth: int = 8
    """Stored bits per channel."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        is_turned = self.orientation >= 5
        return (self.stored_height, self.stored_width) if is_turned else (self.stored_width, self.stored_height)


def read_header(file: BinaryIO, max_pixels: int) -> ImageHeader:
    """Raises InvalidImage for files that are not PNG, JPEG or WebP, and for animated or too large images."""
    start = file.read(12)
    file.seek(0)
    try:
        if start.startswith(_PNG):
            header = _png(file)
        elif start.startswith(b"\xff\xd8\xff"):
            header = _jpeg(file)
        elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
            header = _webp(file)
        elif not start:
            raise InvalidImage("The file is empty.")
        else:
            raise InvalidImage("The file is not a PNG, JPEG or WebP image.")
    except struct.error:
        raise InvalidImage("The image is incomplete.") from None
    pixels = header.stored_width * header.stored_height
    if pixels == 0:
        raise InvalidImage("The image has no pixels.")
    if pixels > max_pixels:
        size = f"{header.stored_width}x{header.stored_height}"
        raise InvalidImage(f"The image has {size} pixels; at most {max_pixels} are allowed.")
    return header


def _png(file: BinaryIO) -> ImageHeader:
    file.seek(8)
    width, height, depth, orientation = 0, 0, 8, 1
    for number in _chunk_numbers():
        length, kind = struct.unpack(">I4s", file.read(8))
        following = file.tell() + length + 4
        match kind:
            case b"IHDR" if number == 0 and length == 13:
                width, height, depth = struct.unpack(">IIB", file.read(9))
            case _ if number == 0:
                break
            case b"acTL":
                raise InvalidImage("The image is animated; send a still image.")
            case b"eXIf":
                orientation = _orientation(file.read(min(length, MAX_EXIF_BYTES)))
            case b"IEND":
                return ImageHeader("PNG", width, height, orientation, depth)
        file.seek(following)
    raise InvalidImage("The PNG image is malformed.")


def _jpeg(file: BinaryIO) -> ImageHeader:
    file.seek(2)
    orientation = 1
    for _ in _chunk_numbers():
        marker = _jpeg_marker(file)
        (length,) = struct.unpack(">H", file.read(2))
        following = file.tell() + length - 2
        if marker in _FRAME_MARKERS:
            depth, height, width = struct.unpack(">BHH", file.read(5))
            if depth != 8 or marker not in _SUPPORTED_FRAMES:
                raise InvalidImage("Lossless and 12-bit JPEG images are not supported; send a PNG.")
            return ImageHeader("JPEG", width, height, orientation)
        if marker == 0xDA:
            break
        if marker == 0xE1 and file.read(6) == b"Exif\0\0":
            orientation = _orientation(file.read(length - 8))
        file.seek(following)
    raise InvalidImage("The JPEG image is malformed.")


def _jpeg_marker(file: BinaryIO) -> int:
    """Skip any number of 0xFF bytes before a marker (T.81, B.1.1.2)."""
    lead, marker = struct.unpack("BB", file.read(2))
    for _ in _chunk_numbers():
        if lead != 0xFF or marker != 0xFF:
            break
        (marker,) = struct.unpack("B", file.read(1))
    if lead != 0xFF:
        raise InvalidImage("The JPEG image is malformed.")
    return int(marker)


def _webp(file: BinaryIO) -> ImageHeader:
    file.seek(12)
    header = None
    for number in _chunk_numbers():
        chunk_header = file.read(8)
        if header and len(chunk_header) < 8:
            return header
        kind, length = struct.unpack("<4sI", chunk_header)
        # Chunks start at even offsets.
        following = file.tell() + length + length % 2
        if number == 0:
            header, has_more = _webp_start(kind, file.read(min(length, 10)))
            if not has_more:
                return header
        elif header and kind == b"EXIF":
            exif = file.read(min(length, MAX_EXIF_BYTES)).removeprefix(b"Exif\0\0")
            return ImageHeader("WEBP", header.stored_width, header.stored_height, _orientation(exif))
        file.seek(following)
    raise InvalidImage("The WebP image is malformed.")


def _webp_start(kind: bytes, data: bytes) -> tuple[ImageHeader, bool]:
    """The header, and whether an EXIF chunk may follow (RFC 9649, 2.5 to 2.7)."""
    match kind:
        case b"VP8 ":
            code, width, height = struct.unpack_from("<3sHH", data, 3)
            if code == b"\x9d\x01\x2a":
                return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF), False
        case b"VP8L":
            signature, bits = struct.unpack_from("<BI", data)
            if signature == 0x2F:
                return ImageHeader("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), False
        case b"VP8X":
            flags, low, high = struct.unpack_from("<I3s3s", data)
            if flags & 0x02:
                raise InvalidImage("The image is animated; send a still image.")
            width, height = int.from_bytes(low, "little") + 1, int.from_bytes(high, "little") + 1
            return ImageHeader("WEBP", width, height), bool(flags & 0x08)
    raise InvalidImage("The WebP image is malformed.")


def _orientation(exif: bytes) -> int:
    """Read the orientation from a TIFF structure (EXIF 2.3, 4.6.2); 1 if it is unreadable."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _chunk_numbers() -> Iterator[int]:
    return itertools.islice(itertools.count(), MAX_CHUNKS)
