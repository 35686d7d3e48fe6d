"""A connection to Redis that a test can cut."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Forwards everything between TCP clients and a server's socket, with two threads per connection."""

    def __init__(self, server: str, listener: socket.socket) -> None:
        self.url = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        self.refused = threading.Event()
        """Set when a connection was refused."""
        self._server = server
        self._listener = listener
        self._down = False
        self._lose_next_reply = False
        self._sockets: list[socket.socket] = []

    def cut(self) -> None:
        self._down = True
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._down = False

    def lose_next_reply(self) -> None:
        """Deliver the next command to the server, but not its reply to the client."""
        self._lose_next_reply = True

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                client.close()
                self.refused.set()
                continue
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._sockets += [client, server]
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with source, target, suppress(OSError):
            while data := source.recv(65536):
                if answers and self._lose_next_reply:
                    self._lose_next_reply = False
                    break
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(redis_url: str) -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(redis_url.removeprefix("unix://"), listener)
        threading.Thread(target=proxy.serve, daemon=True).start()
        yield proxy
        proxy.cut()
