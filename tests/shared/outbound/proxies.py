"""An HTTP proxy that only supports CONNECT, records requests and connects to ports of this machine."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ConnectProxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heads: list[str] = []
        self.ports: dict[str, int] = {}
        """Ports of this machine by requested target; other targets get `refusal`."""
        self.refusal = b"HTTP/1.1 502 Bad Gateway\r\n\r\n"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def requests(self) -> list[str]:
        return [head.partition(" HTTP/1.1")[0] for head in self.heads]


class _Handler(socketserver.StreamRequestHandler):
    server: ConnectProxy
    rbufsize = 0

    def handle(self) -> None:
        lines = [line for line in iter(self.rfile.readline, b"\r\n") if line]
        self.server.heads.append(b"".join(lines).decode())
        port = self.server.ports.get(lines[0].split()[1].decode())
        if port is None:
            self.request.sendall(self.server.refusal)
            return
        with socket.create_connection(("127.0.0.1", port)) as server:
            self.request.sendall(b"HTTP/1.1 200 Connection established\r\nVia: a proxy\r\n\r\n")
            responses = threading.Thread(target=_pipe, args=(server, self.request), daemon=True)
            responses.start()
            _pipe(self.request, server)
            responses.join(10)


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def connect_proxy() -> Iterator[ConnectProxy]:
    with ConnectProxy() as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        yield proxy
        proxy.shutdown()
