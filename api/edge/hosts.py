"""Checks the Host header, and which web sites may change anything.

A page of any site can make a browser send requests to this service. Its host name can resolve to this machine (DNS
rebinding), which lets the page read the answers; and it can send what CORS allows without permission, unread.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.edge.authentication import SAFE_METHODS
from api.edge.public_paths import PROBES
from api.problems import early_error_response
from shared.errors import Forbidden, MisdirectedRequest, RequestError
from shared.net.url import PRIVATE_SUFFIXES
from shared.settings.http_server import HttpServerSettings

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
#: A name may end in a dot, a link-local address may have a zone, and a port may be empty (RFC 3986 3.2, RFC 6874).
_HOST = re.compile(r"([a-z0-9._-]+?|\[[0-9a-f:.]+(?:%[a-z0-9._~%-]+)?\])\.?(?::\d{0,5})?", re.IGNORECASE)
MAX_HOST_LENGTH = 300


class HostCheck:
    """Answers 421 to requests for other hosts, and 403 to changes that pages of other sites request."""

    def __init__(self, app: ASGIApp, settings: HttpServerSettings) -> None:
        self._app = app
        self._allowed_origins = frozenset(settings.cors_origins)
        self._public_hosts = {urlsplit(settings.public_url).netloc.lower()} - {""}
        self._is_ours = lru_cache(maxsize=1024)(HostNames(settings.allowed_hosts, settings.public_url).include)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        error = self._check(scope, headers)
        if error is not None:
            await early_error_response(error, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope, headers: Headers) -> RequestError | None:
        hosts = headers.getlist("host")
        # Every browser sends Host. HTTP/1.0 does not have it, and some load balancers probe without it.
        if not hosts and (scope["http_version"] == "1.0" or scope["path"] in PROBES):
            hosts = ["localhost"]
        if len(hosts) != 1 or len(hosts[0]) > MAX_HOST_LENGTH or not self._is_ours(hosts[0]):
            return MisdirectedRequest()
        if scope["method"] in SAFE_METHODS or self._may_change(headers, hosts[0]):
            return None
        return Forbidden("Pages of this web site may not use the service; the operator can add it to SD_CORS_ORIGINS.")

    def _may_change(self, headers: Headers, host: str) -> bool:
        """Whether the request comes from no page, or from one of an allowed site."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site") not in ("cross-site", "same-site")
        origin_host = origin.lower().partition("://")[2]
        return origin in self._allowed_origins or origin_host in {host.lower(), *self._public_hosts}


class HostNames:
    """The host names of this service, without ports."""

    def __init__(self, allowed: Sequence[str], public_url: str) -> None:
        public = urlsplit(public_url).hostname
        self._any_private = not allowed
        self._exact = {*_LOOPBACK, *allowed, *([public] if public else [])}
        self._suffixes = tuple(name[1:] for name in allowed if name.startswith("*."))

    def include(self, host: str) -> bool:
        """Whether a Host header names this service."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match.group(1).lower()
        if "*" in self._exact or name in self._exact or name.endswith(self._suffixes):
            return True
        return self._any_private and _is_private(name)


def _is_private(name: str) -> bool:
    # Nobody can register such names, so they cannot resolve here from elsewhere.
    if "." not in name or name.endswith(PRIVATE_SUFFIXES):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
