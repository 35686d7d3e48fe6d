"""A minimal HTTP client, so that the client takes next to none of the measured time."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def _request(method: str, path: str, body: object) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(content)}\r\n"
    return (head + "content-type: application/json\r\n\r\n").encode() + content


class Connection:
    """A keep-alive connection, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.job_id = ""

    @classmethod
    async def open(cls, url: str) -> Self:
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**22)
        # Otherwise the kernel delays a request until the previous response is acknowledged.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    async def call(self, method: str, path: str, body: object = None) -> Response:
        """Raises ConnectionError or asyncio.IncompleteReadError if the server closes the connection."""
        self._writer.write(_request(method, path, body))
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return Response(int(head[9:12]), await self._reader.readexactly(int(length[15:])))

    async def events(self, path: str, body: object = None) -> AsyncIterator[str]:
        """The type of each Server-Sent Event as it comes; the connection cannot be reused afterwards.

        With a body, the request is a POST. Afterwards `job_id` is the one that the answer names.
        """
        self._writer.write(_request("GET" if body is None else "POST", path, body))
        head = await self._reader.readuntil(b"\r\n\r\n")
        self.job_id = head.lower().partition(b"x-job-id: ")[2].partition(b"\r")[0].decode()
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
