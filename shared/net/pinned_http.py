"""Exchange one HTTP request with a server at given addresses, within a total time and a total number of bytes.

All bytes, of headers, body and framing, pass one place that counts and times them. A socket's timeout limits a single
read, so a server that sends a byte now and then would never exceed it.
"""

import functools
import io
import itertools
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

import certifi

from shared.errors import ConnectionFailed, OutboundError, OutboundTimeout, ResponseTooLarge, Unreachable
from shared.net.address_policy import IpAddress
from shared.net.egress_proxy import EgressProxy
from shared.net.exchange_budget import ExchangeBudget
from shared.net.url import DEFAULT_PORTS, Url

#: Timeout per address of the server.
CONNECT_SECONDS = 3.0
#: The owner of a host name must not make us connect to any number of addresses.
MAX_ADDRESSES = 4
#: Small enough that a single write does not outlast the time left.
_WRITE_BYTES = 16 << 10
_CHUNK_BYTES = 64 << 10


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
) -> Iterator[HTTPResponse]:
    """Yield the response before its body is read. With a proxy, `addresses` are the proxy's.

    Raises Unreachable, OutboundTimeout and ResponseTooLarge.
    """
    with _translate_errors(budget):
        sock = _connect(url, addresses, budget, proxy)
    with sock:
        with _translate_errors(budget):
            response = _send(method, url, headers, body, _MeteredSocket(sock, budget))
        yield response


def read_body(response: HTTPResponse, budget: ExchangeBudget, max_bytes: int, sink: Callable[[bytes], object]) -> None:
    """Pass the body on as it arrives. Raises what `exchange` and the sink raise."""
    bytes_left = max_bytes
    if (response.length or 0) > max_bytes:
        raise ResponseTooLarge(status=response.status)
    while chunk := _read_chunk(response, budget):
        bytes_left -= len(chunk)
        if bytes_left < 0:
            raise ResponseTooLarge(status=response.status)
        sink(chunk)


def _read_chunk(response: HTTPResponse, budget: ExchangeBudget) -> bytes:
    with _translate_errors(budget, response.status):
        chunk = response.read1(_CHUNK_BYTES)
        if not chunk and response.length:
            raise HTTPException("the connection was closed before the end of the body")
        return chunk


def _send(method: str, url: Url, headers: Mapping[str, str], body: bytes, sock: "_MeteredSocket") -> HTTPResponse:
    connection = HTTPConnection(url.host, url.port)
    # It uses the given socket or none. The host goes into the Host header, without the usual port of the scheme.
    connection.sock, connection.auto_open = sock, 0
    connection.default_port = DEFAULT_PORTS[url.scheme]
    # A server may respond and close the connection before it has read the body.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, url.target, body or None, headers)
    return connection.getresponse()


def _connect(
    url: Url, addresses: Sequence[IpAddress], budget: ExchangeBudget, proxy: EgressProxy | None
) -> socket.socket:
    """Through the proxy, if any. TLS checks the name of the host, whatever its address."""
    sock = _dial(addresses, proxy.url.port if proxy else url.port, budget)
    if sock is None:
        budget.require_time()
        raise ConnectionFailed(f"The {'egress proxy' if proxy else 'server'} refuses connections.")
    try:
        if proxy is not None:
            proxy.open_tunnel(sock, url.origin.partition("://")[2], budget)
        if url.scheme == "https":
            # The handshake as a whole must end in time.
            sock.settimeout(budget.require_time())
            sock = tls_context().wrap_socket(sock, server_hostname=url.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _dial(addresses: Sequence[IpAddress], port: int, budget: ExchangeBudget) -> socket.socket | None:
    """Connect to the first address that accepts; None if none does."""
    for address in _alternate_families(addresses)[:MAX_ADDRESSES]:
        seconds = min(CONNECT_SECONDS, budget.require_time())
        with suppress(OSError):
            sock = socket.create_connection((str(address), port), seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    return None


def _alternate_families(addresses: Sequence[IpAddress]) -> list[IpAddress]:
    """Alternate between IPv4 and IPv6: a machine may have a route for one family only."""
    ranks = {4: itertools.count(), 6: itertools.count()}
    return sorted(addresses, key=lambda address: next(ranks[address.version]))


class _MeteredSocket(io.RawIOBase):
    """What HTTPConnection needs of a socket: it counts what is received, and times everything."""

    def __init__(self, sock: socket.socket, budget: ExchangeBudget) -> None:
        self._sock = sock
        self._budget = budget

    def sendall(self, data: bytes) -> None:
        for start in range(0, len(data), _WRITE_BYTES):
            self._sock.settimeout(self._budget.require_time())
            self._sock.sendall(data[start : start + _WRITE_BYTES])

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._budget.require_time())
        count = self._sock.recv_into(buffer)
        self._budget.spend_bytes(count)
        return count

    def close(self) -> None:
        """Do nothing: HTTPConnection closes its socket before the response is read."""


@contextmanager
def _translate_errors(budget: ExchangeBudget, status: int | None = None) -> Iterator[None]:
    """Without the text of errors, which could reveal addresses of the network."""
    try:
        yield
    except OutboundError as error:
        error.status = status
        raise
    except (HTTPException, OSError) as error:
        if budget.time_left <= 0:
            raise OutboundTimeout(status=status) from error
        if isinstance(error, ssl.SSLError) and status is None:
            raise ConnectionFailed(
                "The TLS handshake failed: the certificate is untrusted, invalid or for another host, or there is none."
            ) from error
        raise Unreachable("The server sent no complete HTTP response.", status) from error
