"""Send requests to URLs from outside, such as webhooks and input images, without reaching private networks."""

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
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from shared.errors import ConnectionFailed, ForbiddenUrl, OutboundTimeout
from shared.net.address_policy import IpAddress, refusal_reason
from shared.net.allowlist import AllowlistEntry
from shared.net.egress_proxy import EgressProxy
from shared.net.exchange_budget import ExchangeBudget
from shared.net.url import PRIVATE_SUFFIXES, Url

if TYPE_CHECKING:
    from http.client import HTTPResponse

logger = logging.getLogger(__name__)

#: Other ports belong to services that are not meant for foreign requests.
ALLOWED_PORTS = (80, 443)
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
#: Maximum concurrent lookups: one that timed out here continues until the resolver gives up.
MAX_LOOKUPS = 64
_HEADERS = {"User-Agent": "imagegen", "Accept-Encoding": "identity", "Connection": "close"}

Sink = Callable[[bytes], None]
#: Looks up all addresses of a name, on a thread of its own. May block; raises OSError if there are none.
Resolver = Callable[[str], Sequence[IpAddress]]


def resolve(host: str) -> list[IpAddress]:
    """Look up a name as this machine does."""
    results = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in results))


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    """By their names in lower case."""
    body: bytes
    """As sent: no compression was requested, so none is undone."""

    def json(self) -> dict[str, Any] | None:
        """None if the body is not a JSON object."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def retry_after(self) -> float | None:
        """Seconds until the server accepts a retry; negative for a past date, None without the header."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return float(value[:6])
        retry_at = _parse_date(value)
        if retry_at is None:
            return None
        # The server's own clock may differ from ours.
        return (retry_at - (_parse_date(self.headers.get("date", "")) or datetime.now(UTC))).total_seconds()


def _parse_date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return date.replace(tzinfo=date.tzinfo or UTC)


class OutboundClient:
    """Sends requests to public servers. Keeps no state between requests, so threads may share it.

    `allow` are the entries of SD_WEBHOOK_ALLOW: they may be private and use any port. All other requests go through
    the `proxy`, if there is one; it resolves their host names and judges the addresses. This client judges everything
    else of a URL in either case.
    """

    def __init__(
        self, allow: Sequence[str] = (), *, proxy: EgressProxy | None = None, resolve: Resolver = resolve
    ) -> None:
        self._allow = tuple(map(AllowlistEntry.parse, allow))
        self._proxy = proxy
        self._resolve = resolve
        self._lookups = threading.BoundedSemaphore(MAX_LOOKUPS)

    def check(self, url: str) -> None:
        """Check a URL as far as possible without the network. Raises ForbiddenUrl."""
        self._parse_allowed(url)

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
        """Send a request and return the response, whatever its status. Blocks for at most `timeout_seconds`.

        Follows up to `max_redirects` redirects, for GET only, and checks each like the first URL; one redirect more is
        returned. `headers` are only sent to the origin of `url`. A `sink` receives the body as it arrives, whatever the
        status, and the response has none; an exception of the sink ends the exchange. Raises ForbiddenUrl, Unreachable,
        ResponseTooLarge and OutboundTimeout.
        """
        # Imported here: most installations send nothing anywhere, and HTTP with its TLS takes 3 MB in each process.
        from shared.net.pinned_http import exchange, read_body

        if max_redirects and method != "GET":
            raise ValueError("only GET requests can follow redirects")
        budget = ExchangeBudget(timeout_seconds, max_bytes)
        current, extra_headers = self._parse_allowed(url), dict(headers or {})
        while True:
            addresses, proxy = self._route(current, budget)
            sent_headers = {**_HEADERS, **extra_headers}
            with exchange(method, current, sent_headers, body, addresses, budget, proxy) as response:
                target = self._redirect_target(current, response) if max_redirects else None
                if target is None:
                    received = bytearray()
                    read_body(response, budget, max_bytes, sink or received.extend)
                    received_headers = {name.lower(): value for name, value in response.headers.items()}
                    return HttpResponse(response.status, received_headers, bytes(received))
            extra_headers = extra_headers if target.origin == current.origin else {}
            current, max_redirects = target, max_redirects - 1

    def _is_allowlisted(self, url: Url) -> bool:
        return any(entry.covers(url) for entry in self._allow)

    def _parse_allowed(self, text: str) -> Url:
        url = Url.parse(text)
        is_allowlisted = self._is_allowlisted(url)
        if (reason := _refusal(url, is_allowlisted=is_allowlisted)) is None:
            return url
        if not is_allowlisted and any(entry.origin == url.origin for entry in self._allow):
            reason = "SD_WEBHOOK_ALLOW allows other paths of the URL's host, but not this one."
        raise ForbiddenUrl(reason)

    def _route(self, url: Url, budget: ExchangeBudget) -> tuple[Sequence[IpAddress], EgressProxy | None]:
        """The addresses to connect to: of the server, or of the proxy."""
        if self._proxy is None:
            return self._server_addresses(url, budget), None
        if self._is_allowlisted(url):
            with suppress(ConnectionFailed):
                addresses = self._server_addresses(url, budget)
                if any(map(refusal_reason, addresses)):
                    return addresses, None
        proxy_url = self._proxy.url
        return [proxy_url.address] if proxy_url.address else self._look_up(proxy_url.host, budget), self._proxy

    def _server_addresses(self, url: Url, budget: ExchangeBudget) -> Sequence[IpAddress]:
        """A single forbidden address disqualifies the host: only an attacker mixes them in."""
        if url.address is not None:
            return [url.address]
        addresses, is_allowlisted = self._look_up(url.host, budget), self._is_allowlisted(url)
        for address in addresses:
            if reason := refusal_reason(address, allow_private=is_allowlisted):
                logger.warning("did not connect to %s: its address %s is forbidden (%s)", url.host, address, reason)
                raise ForbiddenUrl("The URL's host has an address that is not public.")
        return addresses

    def _look_up(self, host: str, budget: ExchangeBudget) -> Sequence[IpAddress]:
        if not self._lookups.acquire(timeout=budget.require_time()):
            raise OutboundTimeout
        result: Future[Sequence[IpAddress]] = Future()

        def look_up() -> None:
            try:
                result.set_result(self._resolve(host))
            except (OSError, ValueError) as error:
                result.set_exception(error)
            finally:
                self._lookups.release()

        # A lookup cannot be interrupted. On a daemon thread it does not delay the exit of the process.
        try:
            threading.Thread(target=look_up, name="lookup", daemon=True).start()
        except RuntimeError:
            self._lookups.release()
            raise ConnectionFailed("The system allows no more threads for this service.") from None
        try:
            return result.result(budget.require_time())
        except TimeoutError:
            raise OutboundTimeout from None
        except (OSError, ValueError) as error:
            raise ConnectionFailed("The URL's host cannot be resolved.") from error

    def _redirect_target(self, current: Url, response: "HTTPResponse") -> Url | None:
        location = response.headers.get("Location")
        if response.status not in _REDIRECT_STATUSES or location is None:
            return None
        try:
            target = self._parse_allowed(urljoin(current.origin + current.target, location))
        except ValueError:
            raise ForbiddenUrl("The URL redirects to an invalid URL.") from None
        if (current.scheme, target.scheme) == ("https", "http"):
            raise ForbiddenUrl("The URL redirects from https to http.")
        return target


def _refusal(url: Url, *, is_allowlisted: bool) -> str | None:
    """Why a URL is forbidden, as far as it shows without a lookup."""
    if url.address is not None:
        if reason := refusal_reason(url.address, allow_private=is_allowlisted):
            return f"The URL's host is not a public address ({reason})."
    elif not is_allowlisted and ("." not in url.host or f".{url.host}".endswith(PRIVATE_SUFFIXES)):
        return "The URL's host is a name of a private network."
    if not is_allowlisted and url.port not in ALLOWED_PORTS:
        return f"The URL's port must be {ALLOWED_PORTS[0]} or {ALLOWED_PORTS[1]}."
    return None
