"""Sends malformed requests over plain sockets."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.stack import Api

TIMEOUT_SECONDS = 20


@contextmanager
def open_connection(api: Api) -> Iterator[socket.socket]:
    address = urlsplit(api.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=TIMEOUT_SECONDS) as call:
        yield call


def read_to_end(call: socket.socket) -> bytes:
    """Everything that arrives until the server closes the connection."""
    received = b""
    with suppress(ConnectionError):
        while chunk := call.recv(65_536):
            received += chunk
    return received


def send_raw(api: Api, text: str | bytes) -> bytes:
    with open_connection(api) as call:
        # The server may close the connection before everything is sent.
        with suppress(ConnectionError):
            call.sendall(text.encode() if isinstance(text, str) else text)
        return read_to_end(call)
