"""A proxy that closes connections instead of passing on answers."""

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class CuttingProxy(socketserver.ThreadingTCPServer):
    """Cuts the answer to every first attempt of a client that numbers its attempts."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        address = urlsplit(upstream)
        self.upstream = str(address.hostname), int(address.port or 80)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.cut = 0
        self.lock = threading.Lock()


class _Connection(socketserver.BaseRequestHandler):
    server: CuttingProxy

    def handle(self) -> None:
        request = _read_request(self.request)
        with socket.create_connection(self.server.upstream, timeout=60) as upstream:
            upstream.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            first = upstream.recv(65_536)
            if b"x-stainless-retry-count: 0" in request.lower():
                with self.server.lock:
                    self.server.cut += 1
                return
            while first:
                self.request.sendall(first)
                first = upstream.recv(65_536)


def _read_request(client: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (chunk := client.recv(65_536)):
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].partition(b":")[2]) - len(body) if lengths else 0
    while missing > 0 and (chunk := client.recv(65_536)):
        data, missing = data + chunk, missing - len(chunk)
    kept = [
        line for line in data.partition(b"\r\n\r\n")[0].split(b"\r\n") if not line.lower().startswith(b"connection:")
    ]
    return b"\r\n".join(kept) + b"\r\n\r\n" + data.partition(b"\r\n\r\n")[2]


@contextmanager
def cutting_proxy(upstream: str) -> Iterator[CuttingProxy]:
    with CuttingProxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()
