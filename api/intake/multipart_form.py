"""Reads multipart/form-data part by part while it arrives, with only short texts in memory."""

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
#: Enough for every field and image of a request, some of them sent twice by mistake.
MAX_PARTS = 64


@dataclass(frozen=True)
class Part:
    name: str
    file_name: str | None
    """None for a field."""


class MultipartForm:
    """The parts of a body. Each must be read, with `data` or `content`, before the next."""

    def __init__(self, http: Request) -> None:
        """Raises InvalidRequest."""
        self._http = http
        #: Each part, its data in pieces, and None for its end.
        self._parsed: list[Part | bytearray | None] = []
        self._header = (b"", b"")
        self._disposition = b""
        self._bytes_left = MAX_JSON_BYTES
        self._is_complete = False
        _, options = parse_options_header(http.headers.get("content-type"))
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks())
        except (KeyError, FormParserError):
            raise InvalidRequest("The form has no boundary parameter.") from None
        self._events = self._read()

    async def parts(self) -> AsyncIterator[Part]:
        """Raises InvalidRequest for a malformed form and for too many parts."""
        count = 0
        async for event in self._events:
            if isinstance(event, Part):
                count += 1
                if count > MAX_PARTS:
                    raise InvalidRequest(f"The form may have at most {MAX_PARTS} parts.")
                yield event

    async def data(self) -> AsyncIterator[bytes]:
        """The current part, as it arrives."""
        async for event in self._events:
            if event is None:
                return
            if isinstance(event, bytearray):
                yield bytes(event)

    async def content(self) -> bytes:
        """All of the current part. Raises InvalidRequest, and PayloadTooLarge if the texts of the form are too long."""
        text = bytearray()
        async for chunk in self.data():
            self._bytes_left -= len(chunk)
            if self._bytes_left < 0:
                raise PayloadTooLarge(f"The fields of the form may have at most {MAX_JSON_BYTES} bytes.")
            text += chunk
        return bytes(text)

    async def _read(self) -> AsyncIterator[Part | bytearray | None]:
        try:
            async for chunk in body_chunks(self._http):
                self._parser.write(chunk)
                for event in self._parsed:
                    yield event
                self._parsed.clear()
        except FormParserError:
            raise InvalidRequest("The body is not valid multipart/form-data.") from None
        if not self._is_complete:
            raise InvalidRequest("The form is truncated.")

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": lambda data, start, end: self._on_header(data[start:end], b""),
            "on_header_value": lambda data, start, end: self._on_header(b"", data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_data,
            "on_part_end": lambda: self._parsed.append(None),
            "on_end": self._on_end,
        }

    def _on_end(self) -> None:
        self._is_complete = True

    def _on_part_begin(self) -> None:
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
        file_text = file_name.decode("utf-8", "replace") if file_name is not None else None
        self._parsed.append(Part(name.decode("utf-8", "replace"), file_text))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._parsed and isinstance(self._parsed[-1], bytearray):
            self._parsed[-1] += data[start:end]
        else:
            self._parsed.append(bytearray(data[start:end]))
