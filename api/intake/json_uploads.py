"""Extracts images from a JSON body while it arrives.

Long strings go to files chunk by chunk, so a large body neither fills the memory nor blocks the event loop.
"""

import binascii
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from pydantic_core import from_json

from api.edge.body_limit import MAX_JSON_BYTES
from api.intake.json_body import MAX_VALUES, count_values, too_many_values
from api.intake.uploads import UploadWriter
from shared.errors import PayloadTooLarge
from shared.jobs.requests import MAX_INPUT_IMAGES

#: A longer string is an image or invalid: the longest text has 4000 characters of at most 12 bytes each.
LONG_STRING_BYTES = 64 * 1024
MAX_UPLOADS = MAX_INPUT_IMAGES + 1
#: Limit of the JSON without its long strings.
MAX_REMAINDER_BYTES = MAX_JSON_BYTES + MAX_UPLOADS * LONG_STRING_BYTES
#: Makes a placeholder longer than any field allows, so a long string that is not an image is refused.
PADDING = "." * 5000
NOT_AN_IMAGE = "is not base64, a data: URL or a URL"
NOT_BASE64_DATA_URL = "is a data: URL without base64"
#: Matches up to the quote that ends a string, or up to an incomplete escape at the end of the chunk.
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


def decode_base64(text: bytes) -> bytes:
    """Decode the standard alphabet or the one for URLs, with any padding or none. Raises ValueError.

    Many append `==` to every text, which Python 3.13 refuses where it is too much.
    """
    text = text.rstrip(b"=")
    padding = b"=" * (-len(text) % 4)
    return binascii.a2b_base64(text.replace(b"-", b"+").replace(b"_", b"/") + padding, strict_mode=True)


@dataclass
class Base64Decoder:
    """Decodes one long string, base64 or a base64 data: URL, while it arrives."""

    target: UploadWriter
    error: str | None = None
    """Why the string is not an image."""
    _is_started: bool = False
    _pending: bytes = b""
    _is_padded: bool = False

    async def feed(self, raw: bytes, *, last: bool) -> None:
        """Decode a part of the string as it is written in the JSON. The part must not end within an escape."""
        if self.error:
            return
        try:
            # Escapes are line breaks, and slashes from PHP. from_json refuses line breaks that are not escaped.
            text = "".join(from_json(b'"' + raw + b'"').split()).encode("ascii") if b"\\" in raw else raw
            data = self._decode(text.replace(b" ", b""), last=last)
        except ValueError:
            self.error = self.error or NOT_AN_IMAGE
            return
        await self.target.write(data)

    def _decode(self, text: bytes, *, last: bool) -> bytes:
        if not self._is_started:
            self._is_started = True
            text = self._strip_data_url(text)
        text = self._pending + text
        if self._is_padded and text.strip(b"="):
            raise ValueError
        end = len(text) if last else len(text) // 4 * 4
        self._pending, self._is_padded = text[end:], self._is_padded or text[:end].endswith(b"=")
        return decode_base64(text[:end])

    def _strip_data_url(self, text: bytes) -> bytes:
        if text[:5].lower() != b"data:":
            return text
        start, _, data = text.partition(b",")
        if not start.lower().endswith(b";base64"):
            self.error = NOT_BASE64_DATA_URL
            raise ValueError
        return data


class JsonUploadReader:
    """Separates the long strings of a JSON body from the rest."""

    def __init__(self, open_target: Callable[[], Awaitable[UploadWriter]]) -> None:
        self._open_target = open_target
        self._values_left = MAX_VALUES
        self._token = secrets.token_hex(16)
        self._pending = b""
        self._in_string = False
        self._string = bytearray()
        self._upload: Base64Decoder | None = None
        self._remainder = bytearray()
        self.uploads: dict[str, Base64Decoder] = {}
        """By the placeholder that replaces the string in the JSON."""

    async def read(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Return the JSON with placeholders for its long strings. Raises PayloadTooLarge."""
        async for chunk in chunks:
            await self._feed(self._pending + chunk)
            if len(self._remainder) > MAX_REMAINDER_BYTES:
                raise PayloadTooLarge(f"Without its images, the JSON may have at most {MAX_JSON_BYTES} bytes.")
        return bytes(self._remainder + self._string + self._pending)

    async def _feed(self, chunk: bytes) -> None:
        start, self._pending = 0, b""
        while start < len(chunk):
            if self._in_string:
                end = _STRING.match(chunk, start).end()  # type: ignore[union-attr]
                self._string += chunk[start:end]
                has_ended = chunk[end : end + 1] == b'"'
                await self._add_to_string(has_ended=has_ended)
                if not has_ended:
                    self._pending = chunk[end:]
                    return
            else:
                end = chunk.find(b'"', start)
                self._in_string = end >= 0
                end = end if end >= 0 else len(chunk)
                self._add_outside_strings(chunk[start : end + 1])
            start = end + 1

    def _add_outside_strings(self, text: bytes) -> None:
        self._remainder += text
        self._values_left -= count_values(text)
        if self._values_left < 0:
            raise too_many_values()

    async def _add_to_string(self, *, has_ended: bool) -> None:
        if self._upload is None and len(self._string) > LONG_STRING_BYTES:
            if len(self.uploads) == MAX_UPLOADS:
                raise PayloadTooLarge("The JSON has more long strings than a request may have images.")
            self._upload = Base64Decoder(await self._open_target())
        if self._upload is not None and (has_ended or len(self._string) > LONG_STRING_BYTES):
            # A unicode escape may be incomplete at the end; it waits for the next chunk.
            escape = -1 if has_ended else self._string.rfind(b"\\u", len(self._string) - 5)
            end = escape if escape >= 0 else len(self._string)
            await self._upload.feed(bytes(self._string[:end]), last=has_ended)
            del self._string[:end]
        if has_ended:
            self._remainder += self._string if self._upload is None else self._placeholder(self._upload).encode()
            self._remainder += b'"'
            self._string.clear()
            self._in_string, self._upload = False, None

    def _placeholder(self, upload: Base64Decoder) -> str:
        name = f"{self._token}{len(self.uploads)}{PADDING}"
        self.uploads[name] = upload
        return name
