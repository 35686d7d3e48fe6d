"""JSON that images come in: what is long in it goes to files as it comes, so that neither memory nor anybody who waits
for the event loop notices how large it is."""

import binascii
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pydantic_core import from_json

from api.edge.body_limit import MAX_JSON_BYTES
from shared.errors import PayloadTooLarge
from shared.jobs.requests import MAX_INPUT_IMAGES

#: A string of more bytes is an image, or is refused: the longest text has 4000 characters, of 12 bytes each at most.
LONG = 64 * 1024
MOST_IMAGES = MAX_INPUT_IMAGES + 1
#: What is left of the JSON without its long strings.
MOST_LEFT = MAX_JSON_BYTES + MOST_IMAGES * LONG
#: Stands where a long string was: too long for every field, where it was no image.
FILLING = "." * 5000


class Target(Protocol):
    """Takes the bytes of one image. May raise whatever ends the request."""

    async def write(self, data: bytes) -> None: ...


T = TypeVar("T", bound=Target)


@dataclass
class Base64Decoder(Generic[T]):
    """One long string: base64, or a data: URL of it, decoded as it comes."""

    target: T
    wrong: str | None = None
    """What is wrong with it, if anything is."""
    _begun: bool = False
    _rest: bytes = b""
    _padded: bool = False

    async def take(self, raw: bytes, *, last: bool) -> None:
        """`raw` is as it stands in the JSON, and has no half of an escape at its end."""
        if self.wrong:
            return
        try:
            # Escaped line breaks, and the slashes that PHP escapes. The reader takes none that are not escaped.
            text = "".join(from_json(b'"' + raw + b'"').split()).encode("ascii") if b"\\" in raw else raw
            data = self._decoded(text.replace(b" ", b""), last=last)
        except ValueError:
            self.wrong = self.wrong or "is no base64, data: URL or address"
            return
        await self.target.write(data)

    def _decoded(self, text: bytes, *, last: bool) -> bytes:
        if not self._begun:
            self._begun = True
            text = self._past_the_start(text)
        text = self._rest + text
        if text and self._padded:
            raise ValueError
        end = len(text) if last else len(text) // 4 * 4
        self._rest, self._padded = text[end:], text[:end].endswith(b"=")
        return binascii.a2b_base64(text[:end], strict_mode=True)

    def _past_the_start(self, text: bytes) -> bytes:
        if text[:5].lower() != b"data:":
            return text
        start, _, data = text.partition(b",")
        if not start.lower().endswith(b";base64"):
            self.wrong = "is a data: URL without base64 in it"
            raise ValueError
        return data


class JsonUploadReader(Generic[T]):
    """Reads JSON piece by piece; `begin` opens what a long string is written to."""

    def __init__(self, begin: Callable[[], Awaitable[T]], most_values: int) -> None:
        self._begin = begin
        self._values_left = most_values
        self._token = secrets.token_hex(16)
        self._rest = b""
        self._in_string = False
        self._string = bytearray()
        self._long: Base64Decoder[T] | None = None
        self._left = bytearray()
        self.lifted: dict[str, Base64Decoder[T]] = {}
        """By what stands in their place."""

    async def read(self, pieces: AsyncIterator[bytes]) -> bytes:
        """The JSON without its long strings. Raises PayloadTooLarge."""
        async for piece in pieces:
            await self._take(self._rest + piece)
            if len(self._left) > MOST_LEFT:
                raise PayloadTooLarge(f"The JSON without its images may take at most {MAX_JSON_BYTES} bytes.")
        return bytes(self._left + self._string + self._rest)

    async def _take(self, piece: bytes) -> None:
        at, self._rest = 0, b""
        while at < len(piece):
            if self._in_string:
                end = _STRING.match(piece, at).end()  # type: ignore[union-attr]
                self._string += piece[at:end]
                ended = piece[end : end + 1] == b'"'
                await self._inside(ended=ended)
                if not ended:
                    self._rest = piece[end:]
                    return
            else:
                end = piece.find(b'"', at)
                self._in_string = end >= 0
                end = end if end >= 0 else len(piece)
                self._outside(piece[at : end + 1])
            at = end + 1

    def _outside(self, piece: bytes) -> None:
        self._left += piece
        self._values_left -= sum(map(piece.count, (b",", b"[", b"{")))
        if self._values_left < 0:
            raise PayloadTooLarge("The JSON holds more values than a request has.")

    async def _inside(self, *, ended: bool) -> None:
        """With a part of a string, or its end."""
        if self._long is None and len(self._string) > LONG:
            if len(self.lifted) == MOST_IMAGES:
                raise PayloadTooLarge("The JSON holds more long strings than a request has images.")
            self._long = Base64Decoder(await self._begin())
        if self._long is not None and (ended or len(self._string) > LONG):
            half = -1 if ended else self._string.rfind(b"\\u", len(self._string) - 5)
            cut = half if half >= 0 else len(self._string)
            await self._long.take(bytes(self._string[:cut]), last=ended)
            del self._string[:cut]
        if ended:
            self._left += self._string if self._long is None else self._placeholder(self._long).encode()
            self._left += b'"'
            self._string.clear()
            self._in_string, self._long = False, None

    def _placeholder(self, long: Base64Decoder[T]) -> str:
        name = f"{self._token}{len(self.lifted)}{FILLING}"
        self.lifted[name] = long
        return name


#: Up to the quote that ends a string, or to half an escape at the end of what has come.
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
