"""Requests byte by byte, as no well-behaved client sends them."""

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
    """All that comes until the other end hangs up."""
    received = b""
    with suppress(ConnectionError):
        while piece := call.recv(65_536):
            received += piece
    return received


def send_raw(api: Api, text: str | bytes) -> bytes:
    with open_connection(api) as call:
        # It may hang up on what is still being sent.
        with suppress(ConnectionError):
            call.sendall(text.encode() if isinstance(text, str) else text)
        return read_to_end(call)
