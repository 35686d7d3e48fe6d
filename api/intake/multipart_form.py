"""multipart/form-data as it comes in: part after part, none of them in memory but for short texts."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.edge.body_limit import MAX_JSON_BYTES
from api.intake.json_body import body_chunks
from shared.errors import InvalidRequest, PayloadTooLarge

FORM_MEDIA_TYPE = "multipart/form-data"
#: Every field of a request and as many images as may come, with room for those that are sent twice by mistake.
MAX_PARTS = 64


@dataclass(frozen=True)
class Part:
    name: str
    file_name: str | None
    """None for a field."""


class End:
    """Of a part."""


class MultipartForm:
    """The parts of a body, each of which must be read, as bytes or as text, before the next."""

    def __init__(self, http: Request) -> None:
        """Raises InvalidRequest."""
        self._http = http
        self._happened: list[Part | bytearray | End] = []
        self._header = (b"", b"")
        self._disposition = b""
        self._left = MAX_JSON_BYTES
        self._complete = False
        _, options = parse_options_header(http.headers.get("content-type"))
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())
        except (KeyError, FormParserError):
            raise InvalidRequest("The content type names no boundary between the parts of the form.") from None
        self._events = self._read()

    async def parts(self) -> AsyncIterator[Part]:
        """Raises InvalidRequest for what is no form, and one of too many parts."""
        number = 0
        async for event in self._events:
            if isinstance(event, Part):
                number += 1
                if number > MAX_PARTS:
                    raise InvalidRequest(f"The form may have at most {MAX_PARTS} parts.")
                yield event

    async def data(self) -> AsyncIterator[bytes]:
        """Of the part that has begun."""
        async for event in self._events:
            if isinstance(event, End):
                return
            if isinstance(event, bytearray):
                yield bytes(event)

    async def content(self) -> bytes:
        """Of the part that has begun. Raises InvalidRequest, and PayloadTooLarge where all texts take too much."""
        text = bytearray()
        async for piece in self.data():
            self._left -= len(piece)
            if self._left < 0:
                raise PayloadTooLarge(f"The fields of the form may take at most {MAX_JSON_BYTES} bytes.")
            text += piece
        return bytes(text)

    async def _read(self) -> AsyncIterator[Part | bytearray | End]:
        try:
            async for chunk in body_chunks(self._http):
                self._parser.write(chunk)
                for event in self._happened:
                    yield event
                self._happened.clear()
        except FormParserError:
            raise InvalidRequest("The body is not the form that its content type says.") from None
        if not self._complete:
            raise InvalidRequest("The form ends before its end.")

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._on_header(data[start:end], b""),
            "on_header_value": lambda data, start, end: self._on_header(b"", data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": lambda: self._happened.append(End()),
            "on_end": self._on_end,
        }

    def _on_end(self) -> None:
        self._complete = True

    def _begin(self) -> None:
        self._header, self._disposition = (b"", b""), b""

    def _on_header(self, name: bytes, value: bytes) -> None:
        self._header = (self._header[0] + name, self._header[1] + value)

    def _on_header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = self._header[1]
        self._header = (b"", b"")

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, file_name = options.get(b"name", b""), options.get(b"filename")
        told = file_name.decode("utf-8", "replace") if file_name is not None else None
        self._happened.append(Part(name.decode("utf-8", "replace"), told))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._happened and isinstance(self._happened[-1], bytearray):
            self._happened[-1] += data[start:end]
        else:
            self._happened.append(bytearray(data[start:end]))
