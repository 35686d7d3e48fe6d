"""Reduces a PNG to the chunks that its pixels need: all others are dropped, however many or broken they are."""

import struct
import zlib

#: The critical chunks (PNG 5.6) and transparency.
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"})


def pixel_chunks(data: bytes, max_profile_bytes: int) -> tuple[bytes, bytes | None]:
    """The reduced file, and its ICC profile unless that is larger than `max_profile_bytes`."""
    chunks, profile, start = [data[:8]], None, 8
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if kind in _PIXEL_CHUNKS:
            chunks.append(data[start:end])
        elif kind == b"iCCP":
            profile = _profile(data[start + 8 : end - 4], max_profile_bytes)
        start = end
    return b"".join(chunks), profile


def _profile(chunk: bytes, max_bytes: int) -> bytes | None:
    """A name and the compression method come first; there is only one method (PNG 11.3.2.3)."""
    _, _, method_and_data = chunk.partition(b"\0")
    decompressor = zlib.decompressobj()
    try:
        profile = decompressor.decompress(method_and_data[1:], max_bytes)
    except zlib.error:
        return None
    return profile if decompressor.eof else None
