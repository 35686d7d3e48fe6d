"""A PNG without what is of no use to its pixels: neither how much of it there is nor what is wrong with it matters."""

import struct
import zlib

#: What pixels are made of (PNG 5.6), and what is transparent among them.
_NEEDED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})


def bare(data: bytes, max_profile: int) -> tuple[bytes, bytes | None]:
    """The file with the chunks that are needed, and its ICC profile if that has no more bytes than `max_profile`."""
    pieces, profile, at = [data[:8]], None, 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in _NEEDED:
            pieces.append(data[at:end])
        elif kind == b"iCCP":
            profile = _profile(data[at + 8 : end - 4], max_profile)
        at = end
    return b"".join(pieces), profile


def _profile(chunk: bytes, most: int) -> bytes | None:
    """Behind its name and the kind of compression, of which there is one (PNG 11.3.2.3)."""
    _, _, packed = chunk.partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        profile = unpacking.decompress(packed[1:], most)
    except zlib.error:
        return None
    return profile if unpacking.eof else None
