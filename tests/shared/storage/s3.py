"""An S3 server in a process of its own, and one whose network fails."""

import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from tests.stack import free_port
from tests.support.process import Process

REGION = "us-east-1"


class S3Server:
    """Keeps objects in memory."""

    def __init__(
        self, folder: Path, certificate: Path | None = None, address: str = "127.0.0.1", **settings: str
    ) -> None:
        """With TLS if there is a certificate, in a file with its key. `settings` are those of moto."""
        self._port = free_port()
        self._tls = ["-s", "-c", str(certificate), "-k", str(certificate)] if certificate else []
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._port}"
        self._address = address
        self._folder = folder
        self._settings = settings
        self._server: Process

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", self._address, "-p", str(self._port), *self._tls]
        self._server = Process(command, self._folder, self._settings)
        self._server.wait_for("Running on")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.kill()

    def create_bucket(self, name: str, verify: bool | str = True) -> str:
        """Value of SD_OUTPUT_URL for a new bucket."""
        assert requests.put(f"{self.url}/{name}", verify=verify, timeout=10).status_code == 200
        return f"s3://{name}"

    @property
    def credentials(self) -> dict[str, str]:
        """Environment variables for processes that use the server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret-of-somebody",
        }


class UnreliableS3Server(S3Server):
    """Reached through a relay that can refuse connections, which is faster than to restart the server."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._relay_port = free_port()
        self.url = f"http://127.0.0.1:{self._relay_port}"
        self._sockets: list[socket.socket] = []
        self.accept_connections()
        return self

    def __exit__(self, *args: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.refuse_connections()
        super().__exit__(*args)

    def refuse_connections(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        while self._sockets:
            with suppress(OSError):
                self._sockets.pop().shutdown(socket.SHUT_RDWR)

    def accept_connections(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._relay_port))
        threading.Thread(target=self._relay, args=(self._listener,), daemon=True).start()

    def suspend(self) -> None:
        """Connections stay open, but responses do not come."""
        self._server.send(signal.SIGSTOP)

    def resume(self) -> None:
        self._server.send(signal.SIGCONT)

    def _relay(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=_forward, args=(source, target), daemon=True).start()
                if listener.fileno() == -1:
                    # Closed after this connection had been accepted.
                    client.shutdown(socket.SHUT_RDWR)


def _forward(source: socket.socket, target: socket.socket) -> None:
    with source, suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
