"""Requests byte by byte, as no well-behaved client sends them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

from tests.stack import Api

PATIENCE = 20


@contextmanager
def connected(api: Api) -> Iterator[socket.socket]:
    address = urlsplit(api.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), timeout=PATIENCE) as call:
        yield call


def answered(call: socket.socket) -> bytes:
    """All that comes until the other end hangs up."""
    received = b""
    with suppress(ConnectionError):
        while piece := call.recv(65_536):
            received += piece
    return received


def exchanged(api: Api, text: str | bytes) -> bytes:
    with connected(api) as call:
        # It may hang up on what is still being sent.
        with suppress(ConnectionError):
            call.sendall(text.encode() if isinstance(text, str) else text)
        return answered(call)
