"""Exchange one HTTP request with a server at given addresses, within a total time and a total number of bytes.

All received bytes, of headers, body and framing, pass one place that counts and times them. A socket's timeout limits a
single read, so a server that sends a byte now and then would never exceed it.
"""

import functools
import http.client
import io
import itertools
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError

from shared.errors import ConnectionFailed, OutboundError, OutboundTimeout, Unreachable
from shared.net.address_policy import IpAddress
from shared.net.egress_proxy import EgressProxy
from shared.net.exchange_budget import ExchangeBudget
from shared.net.url import Url

#: Timeout per address of the server.
CONNECT_SECONDS = 3.0
#: The owner of a host name must not make us connect to any number of addresses.
MAX_ADDRESSES = 4
#: Small enough that a single write does not outlast the time left.
_WRITE_BYTES = 16 << 10
_CHUNK_BYTES = 64 << 10
#: A socket timeout of zero would mean non-blocking.
_MIN_TIMEOUT_SECONDS = 0.001


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Trusts the authorities of this machine (SSL_CERT_FILE adds more) and the public ones.

    Shared, because it takes a fifth of a second to build.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def exchange(
    method: str,
    url: Url,
    headers: Mapping[str, str],
    body: bytes,
    addresses: Sequence[IpAddress],
    budget: ExchangeBudget,
    proxy: EgressProxy | None = None,
) -> Iterator[requests.Response]:
    """Yield the response before its body is read. With a proxy, `addresses` are the proxy's.

    Raises Unreachable, OutboundTimeout and ResponseTooLarge.
    """
    request = requests.Request(method, url.origin, headers, data=body).prepare()
    with closing(_Adapter(url, addresses, budget, proxy)) as adapter:
        with _translate_errors(budget):
            response = adapter.send(request, stream=True)
        with response:
            yield response


def read_chunks(response: requests.Response, budget: ExchangeBudget) -> Iterator[bytes]:
    """Yield the body as it arrives. Raises Unreachable, OutboundTimeout and ResponseTooLarge."""
    while True:
        with _translate_errors(budget, response.status_code):
            chunk = response.raw.read1(_CHUNK_BYTES, decode_content=False)
        if not chunk:
            return
        yield chunk


@contextmanager
def _translate_errors(budget: ExchangeBudget, status: int | None = None) -> Iterator[None]:
    try:
        yield
    except OutboundError as error:
        error.status = status
        raise
    except (requests.RequestException, HTTPError, OSError) as error:
        raise (OutboundTimeout(status=status) if budget.time_left <= 0 else _failure(error, status)) from error


class _Adapter(HTTPAdapter):
    """Sends one request. Without a session, requests adds no proxy, login, cookie or redirect.

    `url` and `addresses` decide where it connects; how requests and urllib3 parse URLs does not matter.
    """

    def __init__(
        self, url: Url, addresses: Sequence[IpAddress], budget: ExchangeBudget, proxy: EgressProxy | None
    ) -> None:
        super().__init__()
        self._url = url
        dial = _Dial(
            _alternate_families(addresses)[:MAX_ADDRESSES], proxy.url.port if proxy else url.port, budget, proxy, url
        )
        options: dict[str, Any] = {"dial": dial, "budget": budget}
        self._pool: urllib3.HTTPConnectionPool
        if url.scheme == "https":
            self._pool = _HttpsPool(url.host, url.port, ssl_context=tls_context(), **options)
        else:
            self._pool = _HttpPool(url.host, url.port, **options)

    def close(self) -> None:
        self._pool.close()
        super().close()

    def get_connection_with_tls_context(self, *_: object, **__: object) -> urllib3.HTTPConnectionPool:
        return self._pool

    def request_url(self, *_: object) -> str:
        return self._url.target

    def cert_verify(self, *_: object) -> None:
        """Do nothing: the TLS context verifies certificates."""


class _MeteredReader(io.RawIOBase):
    """Counts and times what a socket receives."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, budget: ExchangeBudget) -> None:
        self._sock = sock
        self._raw = raw
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._budget.require_time())
        count = self._raw.readinto(buffer)
        self._budget.spend_bytes(count or 0)
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()


class _Response(http.client.HTTPResponse):
    def __init__(self, budget: ExchangeBudget, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_MeteredReader(sock, self.fp.detach(), budget))


@dataclass(frozen=True)
class _Dial:
    """Connects to the first address that accepts, and through the proxy, if any, to the server."""

    addresses: Sequence[IpAddress]
    port: int
    budget: ExchangeBudget
    proxy: EgressProxy | None
    url: Url

    def __call__(self) -> socket.socket | None:
        """None if no address accepts connections."""
        for address in self.addresses:
            try:
                seconds = min(CONNECT_SECONDS, self.budget.require_time())
                sock = socket.create_connection((str(address), self.port), seconds)
            except OSError:
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._open_tunnel(sock)
        return None

    def _open_tunnel(self, sock: socket.socket) -> socket.socket:
        if self.proxy is not None:
            try:
                self.proxy.open_tunnel(sock, self.url.origin.partition("://")[2], self.budget)
            except BaseException:
                sock.close()
                raise
        return sock


class _Pinned(HTTPConnection):
    """Connects where `dial` says; the Host header and TLS use the name."""

    def __init__(self, *args: Any, dial: _Dial, budget: ExchangeBudget, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = dial
        self._budget = budget
        self.response_class = functools.partial(_Response, budget)  # type: ignore[assignment]

    def _new_conn(self) -> socket.socket:
        if (sock := self._dial()) is not None:
            return sock
        if self._dial.proxy is not None:
            raise ConnectionFailed("The egress proxy refuses connections.")
        raise NewConnectionError(self, "no address accepts connections")

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        for start in range(0, len(data), _WRITE_BYTES):
            self.sock.settimeout(self._budget.require_time())
            super().send(data[start : start + _WRITE_BYTES])


class _PinnedTls(_Pinned, HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        # The handshake as a whole must end in time.
        sock.settimeout(max(_MIN_TIMEOUT_SECONDS, self._budget.time_left))
        return sock


class _HttpPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Pinned


class _HttpsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _PinnedTls


def _alternate_families(addresses: Sequence[IpAddress]) -> list[IpAddress]:
    """Alternate between IPv4 and IPv6: a machine may have a route for one family only."""
    ranks = {4: itertools.count(), 6: itertools.count()}
    return sorted(addresses, key=lambda address: next(ranks[address.version]))


def _failure(error: Exception, status: int | None) -> Unreachable:
    """Translate an error for the client: its own text could reveal addresses of the network."""
    match error:
        case requests.exceptions.SSLError():
            return ConnectionFailed(
                "The TLS handshake failed: the certificate is untrusted, invalid or for another host, or there is none."
            )
        case requests.ConnectionError() if isinstance(getattr(error.args[0], "reason", None), NewConnectionError):
            return ConnectionFailed("The server refuses connections.")
        case _:
            return Unreachable("The server sent no complete HTTP response.", status)
