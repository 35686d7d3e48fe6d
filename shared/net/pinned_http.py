"""HTTP with one server at addresses that were chosen before, within a time and a number of bytes for all of it.

Everything that arrives, be it a header, a body or the framing between, goes through one place that counts and times it:
the timeouts of sockets are for one read each, and a server that sends a byte now and then meets all of them.
"""

import functools
import http.client
import io
import itertools
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError

from shared.errors import ConnectionFailed, OutboundError, OutboundTimeout, ResponseTooLarge, Unreachable
from shared.net.address_policy import IpAddress
from shared.net.egress_proxy import EgressProxy
from shared.net.url import Url

#: For one of the server's addresses, so that the next one gets its turn.
CONNECT_SECONDS = 3.0
#: A name may have any number of addresses; who gave it to us does not get us to knock on all of them.
MOST_TRIED = 4
#: What headers may take.
HEADER_BYTES = 64 << 10
#: No one write may outlast the time that is left.
_WRITE_BYTES = 16 << 10
_PIECE_BYTES = 64 << 10
#: Zero would mean to a socket that it must not wait at all.
_INSTANT = 0.001


class ExchangeBudget:
    """What an exchange may still cost."""

    def __init__(self, seconds: float, body_bytes: int) -> None:
        self._end = time.monotonic() + seconds
        # A body in chunks has some bytes of framing to each.
        self._bytes = body_bytes + body_bytes // 4 + HEADER_BYTES

    @property
    def left(self) -> float:
        """Seconds, below zero when there are none."""
        return self._end - time.monotonic()

    def seconds(self) -> float:
        """Raises OutboundTimeout where none are left."""
        if (left := self.left) <= 0:
            raise OutboundTimeout
        return left

    def spend(self, count: int) -> None:
        """Raises ResponseTooLarge."""
        self._bytes -= count
        if self._bytes < 0:
            raise ResponseTooLarge


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Trusts who the machine trusts (SSL_CERT_FILE adds an authority of one's own) and the public authorities.

    One for all: it takes a fifth of a second to build.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def exchange(
    request: requests.PreparedRequest,
    url: Url,
    addresses: Sequence[IpAddress],
    allowance: ExchangeBudget,
    proxy: EgressProxy | None = None,
) -> Iterator[requests.Response]:
    """The answer, its body not read yet. `addresses` are the proxy's, where there is one.

    Raises Unreachable, OutboundTimeout and ResponseTooLarge.
    """
    with closing(_Adapter(url, addresses, allowance, proxy)) as adapter:
        with _judged(allowance):
            response = adapter.send(request, stream=True)
        with response:
            yield response


def pieces(response: requests.Response, allowance: ExchangeBudget) -> Iterator[bytes]:
    """Chunks of the body as they arrive. Raises Unreachable, OutboundTimeout and ResponseTooLarge."""
    while True:
        with _judged(allowance, response.status_code):
            piece = response.raw.read1(_PIECE_BYTES, decode_content=False)
        if not piece:
            return
        yield piece


@contextmanager
def _judged(allowance: ExchangeBudget, status: int | None = None) -> Iterator[None]:
    """Says in words of ours what went wrong with the other side."""
    try:
        yield
    except OutboundError as error:
        error.status = status
        raise
    except (requests.RequestException, HTTPError, OSError) as error:
        raise (OutboundTimeout(status=status) if allowance.left <= 0 else _failure(error, status)) from error


class _Adapter(HTTPAdapter):
    """For one request. Without a session around it there is no proxy, login, cookie or redirect.

    Where it goes is in `url` and `addresses`; that requests and urllib3 have parsers of their own does not matter.
    """

    def __init__(
        self, url: Url, addresses: Sequence[IpAddress], allowance: ExchangeBudget, proxy: EgressProxy | None
    ) -> None:
        super().__init__()
        self._url = url
        dial = _Dial(_in_turns(addresses)[:MOST_TRIED], proxy.url.port if proxy else url.port, allowance, proxy, url)
        wire: dict[str, Any] = {"dial": dial, "allowance": allowance}
        self._pool: urllib3.HTTPConnectionPool
        if url.scheme == "https":
            self._pool = _HttpsPool(url.host, url.port, ssl_context=tls_context(), **wire)
        else:
            self._pool = _HttpPool(url.host, url.port, **wire)

    def close(self) -> None:
        self._pool.close()
        super().close()

    def get_connection_with_tls_context(self, *_: object, **__: object) -> urllib3.HTTPConnectionPool:
        return self._pool

    def request_url(self, *_: object) -> str:
        return self._url.target

    def cert_verify(self, *_: object) -> None:
        """The context does."""


class _Receiving(io.RawIOBase):
    """What a socket receives, counted and timed."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, allowance: ExchangeBudget) -> None:
        self._sock = sock
        self._raw = raw
        self._allowance = allowance

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._allowance.seconds())
        count = self._raw.readinto(buffer)
        self._allowance.spend(count or 0)
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, allowance: ExchangeBudget, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Receiving(sock, self.fp.detach(), allowance))


@dataclass(frozen=True)
class _Dial:
    """Connects to the addresses, in turn, and through the proxy, where there is one, to the server."""

    addresses: Sequence[IpAddress]
    port: int
    allowance: ExchangeBudget
    proxy: EgressProxy | None
    url: Url

    def __call__(self) -> socket.socket | None:
        """None where none of the addresses takes connections."""
        for address in self.addresses:
            try:
                seconds = min(CONNECT_SECONDS, self.allowance.seconds())
                sock = socket.create_connection((str(address), self.port), seconds)
            except OSError:
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._through(sock)
        return None

    def _through(self, sock: socket.socket) -> socket.socket:
        if self.proxy is not None:
            try:
                self.proxy.open_tunnel(sock, self.url.origin.partition("://")[2], self.allowance)
            except BaseException:
                sock.close()
                raise
        return sock


class _Pinned(HTTPConnection):
    """Connects where `dial` does; for the Host header and for TLS it is a connection to the name."""

    def __init__(self, *args: Any, dial: _Dial, allowance: ExchangeBudget, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial
        self._allowance = allowance
        self.response_class = functools.partial(_Answer, allowance)  # type: ignore[assignment]

    def _new_conn(self) -> socket.socket:
        if (sock := self._dial()) is not None:
            return sock
        if self._dial.proxy is not None:
            raise ConnectionFailed("The egress proxy takes no connections.")
        raise NewConnectionError(self, "none of the addresses takes connections")

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        for start in range(0, len(data), _WRITE_BYTES):
            self.sock.settimeout(self._allowance.seconds())
            super().send(data[start : start + _WRITE_BYTES])


class _PinnedTls(_Pinned, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        # For the handshake, of which the timeout bounds the whole.
        sock.settimeout(max(_INSTANT, self._allowance.left))
        return sock


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Pinned


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PinnedTls


def _in_turns(addresses: Sequence[IpAddress]) -> list[IpAddress]:
    """One of each family after the other: a machine may have no way to all of one."""
    places = {4: itertools.count(), 6: itertools.count()}
    return sorted(addresses, key=lambda address: next(places[address.version]))


def _failure(error: Exception, status: int | None) -> Unreachable:
    """For whoever gave the address: in words, because the error's own text may name addresses of the network."""
    match error:
        case requests.exceptions.SSLError():
            return ConnectionFailed(
                "No secure connection: the certificate is not trusted, not valid or not for this host."
            )
        case requests.ConnectionError() if isinstance(getattr(error.args[0], "reason", None), NewConnectionError):
            return ConnectionFailed("The server takes no connections.")
        case _:
            return Unreachable("The server gave no whole answer in HTTP.", status)
