"""Decodes images that a request has as base64 or data: URLs; api.intake.fetching gets those it names by URL."""

import binascii
from contextlib import suppress

from shared.errors import FieldError, InvalidRequest, PayloadTooLarge


def is_url(source: str) -> bool:
    return source[:8].lower().startswith(("http://", "https://"))


def decode_image(source: str, max_bytes: int, pointer: str) -> bytes:
    """Raises InvalidRequest for what is no base64, and PayloadTooLarge."""
    start, comma, data = source.partition(",") if source[:5].lower() == "data:" else ("", ",", source)
    if not comma or (start and not start.lower().endswith(";base64")):
        raise _wrong(pointer, "is a data: URL without base64 in it")
    # Four characters hold three bytes; some more may be line breaks.
    if len(data) * 3 // 4 > max_bytes * 1.1:
        raise PayloadTooLarge(f"{pointer}: an image may take at most {max_bytes} bytes.")
    # As few copies as can be: base64.b64decode would make one of each text, and only some have line breaks.
    with suppress(ValueError):
        return binascii.a2b_base64(data, strict_mode=True)
    with suppress(ValueError):
        return binascii.a2b_base64("".join(data.split()), strict_mode=True)
    raise _wrong(pointer, "is no base64, data: URL or address")


def _wrong(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(errors=[FieldError(pointer, detail)])
