"""A proxy of a Redis server that can lose answers."""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Relay:
    """Relays all data, but instead of the next `times` answers to commands with `lose` it closes the connection."""

    def __init__(self, server: str, folder: Path) -> None:
        self._server = server
        self._path = str(folder / "r")
        self._socket = socket.socket(socket.AF_UNIX)
        self.url = f"unix://{self._path}"
        self.lose, self.times = b"", 0
        self.lost = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._socket.bind(self._path)
        self._socket.listen()
        self._start(self._accept)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        self._threads.append(threading.Thread(target=work, args=args, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._relay, self._socket.accept()[0])

    def _relay(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._server)
            is_losing = False
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is server and is_losing:
                        self.lost += 1
                        return
                    if ready is client and self.times and self.lose in data:
                        self.times, is_losing = self.times - 1, True
                    (server if ready is client else client).sendall(data)
