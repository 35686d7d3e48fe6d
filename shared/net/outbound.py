"""Requests to addresses that come from outside: a webhook's, an image's. They go to the public net, and no further."""

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import urljoin

import requests

from shared.errors import ConnectionFailed, ForbiddenUrl, OutboundTimeout, ResponseTooLarge
from shared.net.address_policy import IpAddress, refusal_reason
from shared.net.allowlist import AllowlistEntry
from shared.net.egress_proxy import EgressProxy
from shared.net.pinned_http import ExchangeBudget, exchange, pieces
from shared.net.url import Url

logger = logging.getLogger(__name__)

#: Other ports are those of services that were never meant to be asked by strangers.
PORTS = (80, 443)
#: Names that mean something in one network only, told at once where a lookup would tell it late.
PRIVATE_NAMES = (".localhost", ".local", ".internal", ".home.arpa")
REDIRECTS = (301, 302, 303, 307, 308)
#: Lookups that nobody waits for any more go on until the resolver gives up; more are not begun.
MOST_LOOKUPS = 64
_HEADERS = {"User-Agent": "imagegen", "Accept-Encoding": "identity", "Connection": "close"}

Sink = Callable[[bytes], None]
#: A name's addresses, all of them. Raises OSError where there are none. May block; runs on a thread of its own.
Resolve = Callable[[str], Sequence[IpAddress]]


def resolve(host: str) -> list[IpAddress]:
    """As the machine resolves names."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    """Their names in any case."""
    body: bytes
    """As it was sent: a server that compressed it unasked is not helped."""

    def json(self) -> dict[str, Any] | None:
        """None for what is no JSON object."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def retry_after(self) -> float | None:
        """Seconds until they want to be asked again; below zero for a moment that is past. None if they do not say."""
        told = self.headers.get("Retry-After", "").strip()
        if told.isascii() and told.isdigit():
            return float(told[:6])
        moment = _moment(told)
        if moment is None:
            return None
        # By the clock that the moment is of, which may be another than ours.
        return (moment - (_moment(self.headers.get("Date", "")) or datetime.now(UTC))).total_seconds()


def _moment(told: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(told)
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or UTC)


class OutboundClient:
    """Sends requests where everybody may send them. Holds nothing between two, so threads may share it.

    `allow` are the entries of SD_WEBHOOK_ALLOW, which the operator vouches for: they may be private and have any port.
    All others are asked through the `proxy`, where there is one. Names are then looked up there and nowhere else, and
    what they lead to is the proxy's to judge; the rest of an address is judged here in any case.
    """

    def __init__(
        self, allow: Sequence[str] = (), *, proxy: EgressProxy | None = None, resolve: Resolve = resolve
    ) -> None:
        self._allow = tuple(map(AllowlistEntry.parse, allow))
        self._proxy = proxy
        self._resolve = resolve
        self._lookups = threading.BoundedSemaphore(MOST_LOOKUPS)

    def check(self, url: str) -> None:
        """All that can be told without the network. Raises ForbiddenUrl."""
        self._admitted(url)

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        timeout_seconds: float,
        max_bytes: int,
        max_redirects: int = 0,
        sink: Sink | None = None,
    ) -> HttpResponse:
        """The answer to one request, of any status. Blocks for `timeout_seconds` at most, whatever the server does.

        Follows as many redirects, each checked as the first address was, and only for GET; a redirect after the last
        of them is the answer. `headers` go to the origin of `url` alone. A `sink` gets the body as it arrives, of
        whatever status, and the answer is without it; what the sink raises ends the exchange. Raises ForbiddenUrl,
        Unreachable, ResponseTooLarge and OutboundTimeout.
        """
        if max_redirects and method != "GET":
            raise ValueError("only GET can be sent again elsewhere")
        allowance = ExchangeBudget(timeout_seconds, max_bytes)
        here, own = self._admitted(url), dict(headers or {})
        while True:
            request = requests.Request(method, here.origin, {**_HEADERS, **own}, data=body).prepare()
            addresses, proxy = self._way(here, allowance)
            with exchange(request, here, addresses, allowance, proxy) as response:
                there = self._next(here, response) if max_redirects else None
                if there is None:
                    received = bytearray()
                    _drain(response, allowance, max_bytes, sink or received.extend)
                    return HttpResponse(response.status_code, response.headers, bytes(received))
            own = own if there.origin == here.origin else {}
            here, max_redirects = there, max_redirects - 1

    def _vouched(self, url: Url) -> bool:
        return any(entry.covers(url) for entry in self._allow)

    def _admitted(self, text: str) -> Url:
        url = Url.parse(text)
        vouched = self._vouched(url)
        if (what := _refusal(url, vouched=vouched)) is None:
            return url
        if not vouched and any(entry.origin == url.origin for entry in self._allow):
            what = "The address is below no path of its host that this service may call."
        raise ForbiddenUrl(what)

    def _way(self, url: Url, allowance: ExchangeBudget) -> tuple[Sequence[IpAddress], EgressProxy | None]:
        """Where to connect to: the server, or the proxy that connects to it."""
        if self._proxy is None:
            return self._addresses(url, allowance), None
        if self._vouched(url):
            with suppress(ConnectionFailed):
                addresses = self._addresses(url, allowance)
                if any(map(refusal_reason, addresses)):
                    return addresses, None
        door = self._proxy.url
        return [door.address] if door.address else self._looked_up(door.host, allowance), self._proxy

    def _addresses(self, url: Url, allowance: ExchangeBudget) -> Sequence[IpAddress]:
        """Where the server is. One bad address spoils them all: who mixes them in means to have us fall for it."""
        if url.address is not None:
            return [url.address]
        addresses, vouched = self._looked_up(url.host, allowance), self._vouched(url)
        for address in addresses:
            if what := refusal_reason(address, allow_private=vouched):
                logger.warning("not connected to %s: it is at %s, %s", url.host, address, what)
                raise ForbiddenUrl("The host of the address is at an address that is not public.")
        return addresses

    def _looked_up(self, host: str, allowance: ExchangeBudget) -> Sequence[IpAddress]:
        if not self._lookups.acquire(timeout=allowance.seconds()):
            raise OutboundTimeout
        found: Future[Sequence[IpAddress]] = Future()

        def look() -> None:
            try:
                found.set_result(self._resolve(host))
            except (OSError, ValueError) as error:
                found.set_exception(error)
            finally:
                self._lookups.release()

        # Nobody can stop a lookup. A daemon, so that the process does not wait for it either.
        threading.Thread(target=look, name="lookup", daemon=True).start()
        try:
            return found.result(allowance.seconds())
        except TimeoutError:
            raise OutboundTimeout from None
        except (OSError, ValueError) as error:
            raise ConnectionFailed("The host of the address is not known.") from error

    def _next(self, here: Url, response: requests.Response) -> Url | None:
        location = response.headers.get("Location")
        if response.status_code not in REDIRECTS or location is None:
            return None
        try:
            there = self._admitted(urljoin(here.origin + here.target, location))
        except ValueError:
            raise ForbiddenUrl("The address leads on to what is no address.") from None
        if (here.scheme, there.scheme) == ("https", "http"):
            raise ForbiddenUrl("The address leads on from https to http.")
        return there


def _refusal(url: Url, *, vouched: bool) -> str | None:
    """What is wrong with an address, as far as it tells by itself."""
    if url.address is not None:
        if what := refusal_reason(url.address, allow_private=vouched):
            return f"The host of the address is not public: {what}."
    elif not vouched and ("." not in url.host or f".{url.host}".endswith(PRIVATE_NAMES)):
        return "The host of the address is a name of private networks."
    if not vouched and url.port not in PORTS:
        return f"The port of the address is neither {PORTS[0]} nor {PORTS[1]}."
    return None


def _drain(response: requests.Response, allowance: ExchangeBudget, max_bytes: int, sink: Sink) -> None:
    if (response.raw.length_remaining or 0) > max_bytes:
        raise ResponseTooLarge(status=response.status_code)
    count = 0
    for piece in pieces(response, allowance):
        count += len(piece)
        if count > max_bytes:
            raise ResponseTooLarge(status=response.status_code)
        sink(piece)
