"""A proxy that ends TLS before the API, for clients that know nothing but https."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import trustme


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def serve(listener: socket.socket, target: tuple[str, int], folder: Path) -> Path:
    """Relay connections until the listener is closed. Returns the certificate that clients have to trust."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    threading.Thread(target=_accept, args=(listener, context, target), daemon=True).start()
    certificate = folder / "ca.pem"
    authority.cert_pem.write_to_path(certificate)
    return certificate


def _accept(listener: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_relay, args=(client, context, target), daemon=True).start()


def _relay(client: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    with (
        suppress(OSError),
        client,
        socket.create_connection(target) as server,
        context.wrap_socket(client, server_side=True) as secured,
    ):
        back = threading.Thread(target=_copy, args=(server, secured), daemon=True)
        back.start()
        _copy(secured, server)
        server.shutdown(socket.SHUT_RDWR)
        back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
