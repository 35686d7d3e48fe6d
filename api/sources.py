"""How a string in a request becomes a picture: base64 and data: URLs are decoded, addresses are for api.fetching."""

import asyncio
import base64
import binascii

from shared.errors import FieldError, InvalidRequest, PayloadTooLarge


def is_address(source: str) -> bool:
    return source[:8].lower().startswith(("http://", "https://"))


async def decoded(source: str, max_bytes: int, pointer: str) -> bytes:
    """Raises InvalidRequest for what is no base64, and PayloadTooLarge."""
    start, comma, data = source.partition(",") if source[:5].lower() == "data:" else ("", ",", source)
    if not comma or (start and not start.lower().endswith(";base64")):
        raise _wrong(pointer, "is a data: URL without base64 in it")
    # Four characters hold three bytes. Line breaks among them come from tools that wrap lines.
    if len(data) * 3 // 4 > max_bytes * 1.1:
        raise PayloadTooLarge(f"{pointer}: a picture may take at most {max_bytes} bytes.")
    return await asyncio.to_thread(_bytes, data, pointer)


def _bytes(data: str, pointer: str) -> bytes:
    try:
        return base64.b64decode("".join(data.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(pointer, "is no base64, data: URL or address") from None


def _wrong(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(errors=[FieldError(pointer, detail)])
