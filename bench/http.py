"""The least that speaks HTTP, so that the client costs next to nothing of what is measured."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def _request(method: str, path: str, body: object) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    return (head + "content-type: application/json\r\n\r\n").encode() + content


class Connection:
    """One connection that is kept open; for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> Self:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**22)
        # Or the kernel keeps a request back until the answer before it is acknowledged.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    async def call(self, method: str, path: str, body: object = None) -> Answer:
        """Raises ConnectionError or asyncio.IncompleteReadError where the server hangs up."""
        self._writer.write(_request(method, path, body))
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return Answer(int(head[9:12]), await self._reader.readexactly(int(length[15:])))

    async def events(self, path: str) -> AsyncIterator[str]:
        """The type of each Server-Sent Event as it comes; the connection is of no use afterwards."""
        self._writer.write(_request("GET", path, None))
        await self._reader.readuntil(b"\r\n\r\n")
        while line := await self._reader.readline():
            if line.startswith(b"event: "):
                yield line[7:].decode().strip()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def connections(url: str, count: int) -> AsyncIterator[list[Connection]]:
    opened = [await Connection.open(url) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()
