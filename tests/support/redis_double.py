"""A server that speaks Redis' protocol, and loses connections or keeps silent as a test tells it to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.stack import socket_folder

#: The reply to a command of a connection, counted from 0; None for silence. Raises ConnectionError to close it.
Answer = Callable[[int, list[str]], bytes | None]


@dataclass
class RedisDouble:
    answer: Answer
    path: str
    received: list[list[str]] = field(default_factory=list)
    """Commands of all connections, without those of redis-py itself."""
    connections: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @property
    def url(self) -> str:
        # Of the older protocol, redis-py expects no greeting.
        return f"unix://{self.path}?protocol=2"

    def send_all(self, data: bytes) -> None:
        for writer in self._writers:
            writer.write(data)

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, self.connections = self.connections, self.connections + 1
        self._writers.append(writer)
        try:
            while True:
                command = await _read_command(reader)
                if command[0] == "CLIENT":
                    writer.write(b"+OK\r\n")
                    continue
                self.received.append(command)
                reply = self.answer(number, command)
                if reply is not None:
                    writer.write(reply)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _read_command(reader: asyncio.StreamReader) -> list[str]:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    parts = []
    for _ in range(count):
        length = int((await reader.readuntil(b"\r\n"))[1:])
        parts.append((await reader.readexactly(length + 2))[:-2].decode())
    return parts


@asynccontextmanager
async def redis_double(answer: Answer, path: str = "") -> AsyncIterator[RedisDouble]:
    """`path` is its socket; by default a new one."""
    with socket_folder() as folder:
        double = RedisDouble(answer, path or f"{folder}/s")
        server = await asyncio.start_unix_server(double.serve, double.path)
        try:
            yield double
        finally:
            server.close()


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text.encode()), text.encode())


def on_event_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test on an event loop, for at most 20 seconds."""

    async def limited() -> None:
        async with asyncio.timeout(20):
            await test()

    def run() -> None:
        asyncio.run(limited())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run
