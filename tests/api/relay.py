"""A way to a Redis server on which an answer can be lost."""

import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self


class Relay:
    """Passes on all that is said; once the server has answered what holds `lose`, it hangs up instead of telling.

    It does so `times` times.
    """

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
            losing = False
            while True:
                for heard in select.select([client, server], [], [])[0]:
                    data = heard.recv(65536)
                    if not data:
                        return
                    if heard is server and losing:
                        self.lost += 1
                        return
                    if heard is client and self.times and self.lose in data:
                        self.times, losing = self.times - 1, True
                    (server if heard is client else client).sendall(data)
