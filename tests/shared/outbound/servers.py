"""Servers that behave as a test says, byte by byte, and record requests."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

#: What a server does with a connection after it has read the request.
Act = Callable[[socket.socket], None]


def send(response: bytes) -> Act:
    return lambda connection: connection.sendall(response)


def redirect(location: str, status: int = 302) -> Act:
    return send(f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())


def hang(_: socket.socket) -> None:
    """Send nothing for longer than any test waits."""
    threading.Event().wait(300)


def repeat(data: bytes, first: bytes = b"", pause: float = 0.0) -> Act:
    """Send `first` once, and then `data` for ever."""

    def act(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(data)
            time.sleep(pause)

    return act


@dataclass
class Script:
    act: Act
    tls: ssl.SSLContext | None = None
    reads_request: bool = True


@dataclass
class Request:
    line: str
    headers: dict[str, str]
    """By lower-case names."""
    body: bytes
    address: str
    """The address of this machine that the client connected to."""
    sni: str | None


@dataclass
class Server:
    listener: socket.socket
    script: Script
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._handle, args=(connection,), daemon=True).start()

    def _handle(self, plain: socket.socket) -> None:
        # Clients may disconnect or refuse the certificate.
        with plain, contextlib.suppress(OSError):
            plain.settimeout(10)
            connection, sni = self._wrap_tls(plain) if self.script.tls else (plain, None)
            with connection:
                if self.script.reads_request:
                    self.requests.append(_read(connection, sni))
                self.script.act(connection)

    def _wrap_tls(self, plain: socket.socket) -> tuple[socket.socket, str | None]:
        names: list[str | None] = [None]
        assert self.script.tls is not None
        self.script.tls.sni_callback = lambda _, name, __: names.append(name)
        return self.script.tls.wrap_socket(plain, server_side=True), names[-1]


def _read(connection: socket.socket, sni: str | None) -> Request:
    with connection.makefile("rb") as stream:
        line = stream.readline().decode().strip()
        headers: dict[str, str] = {}
        while (header := stream.readline().decode().strip()) != "":
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))
    return Request(line, headers, body, connection.getsockname()[0], sni)


@contextmanager
def serve(script: Script, address: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
        server = Server(listener, script)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
