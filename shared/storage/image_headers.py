"""What the first bytes of an image say of it: enough to turn it away before anybody decodes it."""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from shared.errors import InvalidImage

_PNG = b"\x89PNG\r\n\x1a\n"
#: So many parts a file may have. Encoders that write 8 KB at a time make 2560 of an image of 20 MB.
MAX_CHUNKS = 100_000
MAX_EXIF_BYTES = 1 << 20
#: JPEG markers that begin a frame (ITU T.81, table B.1), without the tables DHT, JPG and DAC among them.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
#: Of these, what every decoder reads: baseline, extended and progressive, the last two also with arithmetic coding.
_TAKEN_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageHeader:
    """`orientation` is that of EXIF: 1 as it lies in the file, from 5 on with its sides swapped."""

    format: str
    stored_width: int
    stored_height: int
    orientation: int = 1
    bit_depth: int = 8
    """Bits of a value, as they are stored."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as it is shown."""
        turned = self.orientation >= 5
        return (self.stored_height, self.stored_width) if turned else (self.stored_width, self.stored_height)


def read_header(file: BinaryIO, max_pixels: int) -> ImageHeader:
    """From a file at its beginning. Raises InvalidImage for what is no PNG, JPEG or WebP, moves, or is too large."""
    start = file.read(12)
    file.seek(0)
    try:
        if start.startswith(_PNG):
            header = _png(file)
        elif start.startswith(b"\xff\xd8\xff"):
            header = _jpeg(file)
        elif start[:4] == b"RIFF" and start[8:] == b"WEBP":
            header = _webp(file)
        else:
            raise InvalidImage("This is no PNG, JPEG or WebP image.")
    except struct.error:
        raise InvalidImage("The image is incomplete.") from None
    pixels = header.stored_width * header.stored_height
    if pixels == 0:
        raise InvalidImage("The image has no pixels.")
    if pixels > max_pixels:
        size = f"{header.stored_width}x{header.stored_height}"
        raise InvalidImage(f"The image has {size} pixels; at most {max_pixels} are taken.")
    return header


def _png(file: BinaryIO) -> ImageHeader:
    file.seek(8)
    width, height, depth, orientation = 0, 0, 8, 1
    for number in _numbers():
        length, kind = struct.unpack(">I4s", file.read(8))
        following = file.tell() + length + 4
        match kind:
            case b"IHDR" if number == 0 and length == 13:
                width, height, depth = struct.unpack(">IIB", file.read(9))
            case _ if number == 0:
                break
            case b"acTL":
                raise InvalidImage("The image is animated; send a single one.")
            case b"eXIf":
                orientation = _orientation(file.read(min(length, MAX_EXIF_BYTES)))
            case b"IEND":
                return ImageHeader("PNG", width, height, orientation, depth)
        file.seek(following)
    raise InvalidImage("This is no PNG image, though it begins like one.")


def _jpeg(file: BinaryIO) -> ImageHeader:
    file.seek(2)
    orientation = 1
    for _ in _numbers():
        marker = _jpeg_marker(file)
        (length,) = struct.unpack(">H", file.read(2))
        following = file.tell() + length - 2
        if marker in _FRAMES:
            depth, height, width = struct.unpack(">BHH", file.read(5))
            if depth != 8 or marker not in _TAKEN_FRAMES:
                raise InvalidImage("A JPEG of this kind (lossless, or of 12 bits) is not taken; send a PNG of it.")
            return ImageHeader("JPEG", width, height, orientation)
        if marker == 0xDA:
            break
        if marker == 0xE1 and file.read(6) == b"Exif\0\0":
            orientation = _orientation(file.read(length - 8))
        file.seek(following)
    raise InvalidImage("This is no JPEG image, though it begins like one.")


def _jpeg_marker(file: BinaryIO) -> int:
    """Any number of 0xFF may stand in its place before it (T.81, B.1.1.2)."""
    lead, marker = struct.unpack("BB", file.read(2))
    for _ in _numbers():
        if lead != 0xFF or marker != 0xFF:
            break
        (marker,) = struct.unpack("B", file.read(1))
    if lead != 0xFF:
        raise InvalidImage("This is no JPEG image, though it begins like one.")
    return int(marker)


def _webp(file: BinaryIO) -> ImageHeader:
    file.seek(12)
    header = None
    for number in _numbers():
        begin = file.read(8)
        if header and len(begin) < 8:
            return header
        kind, length = struct.unpack("<4sI", begin)
        # Parts begin at even places.
        following = file.tell() + length + length % 2
        if number == 0:
            header, has_more = _webp_start(kind, file.read(min(length, 10)))
            if not has_more:
                return header
        elif header and kind == b"EXIF":
            exif = file.read(min(length, MAX_EXIF_BYTES)).removeprefix(b"Exif\0\0")
            return ImageHeader("WEBP", header.stored_width, header.stored_height, _orientation(exif))
        file.seek(following)
    raise InvalidImage("This is no WebP image, though it begins like one.")


def _webp_start(kind: bytes, data: bytes) -> tuple[ImageHeader, bool]:
    """The header, and whether an orientation may follow (RFC 9649, 2.5 to 2.7)."""
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
                raise InvalidImage("The image is animated; send a single one.")
            width, height = int.from_bytes(low, "little") + 1, int.from_bytes(high, "little") + 1
            return ImageHeader("WEBP", width, height), bool(flags & 0x08)
    raise InvalidImage("This is no WebP image, though it begins like one.")


def _orientation(exif: bytes) -> int:
    """Of a TIFF structure (EXIF 2.3, 4.6.2). 1 where it cannot be told: that is no reason to refuse an image."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, start + 2 + 12 * entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _numbers() -> Iterator[int]:
    return itertools.islice(itertools.count(), MAX_CHUNKS)
