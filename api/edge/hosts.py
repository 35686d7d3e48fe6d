"""Which names this service goes by, and which web sites may change things in it.

A page of any site can make a browser send requests here. It can have a name of its own lead to this machine (DNS
rebinding), and so read the answers; and it can send what needs no permission (CORS) without reading them.
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
from shared.settings.http_server import HttpServerSettings

#: Ends of names that nobody can register, and so cannot lead here from somewhere else (RFC 6761, 6762, 8375, ICANN).
_PRIVATE_ENDS = (".internal", ".local", ".localhost", ".home.arpa")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.IGNORECASE)


class HostCheck:
    """Answers 421 to requests for other names, and 403 to changes that pages of other sites ask for."""

    def __init__(self, app: ASGIApp, settings: HttpServerSettings) -> None:
        self._app = app
        self._sites = frozenset(settings.cors_origins)
        self._public = {urlsplit(settings.public_url).netloc.lower()} - {""}
        self._goes_by = lru_cache(maxsize=1024)(HostNames(settings.allowed_hosts, settings.public_url).include)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refused = self._refused(scope, headers)
            if refused is not None:
                await early_error_response(refused, headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refused(self, scope: Scope, headers: Headers) -> RequestError | None:
        hosts = headers.getlist("host")
        # Every browser sends it; HTTP/1.0 does not have it, and load balancers ask so.
        if not hosts and (scope["http_version"] == "1.0" or scope["path"] in PROBES):
            hosts = ["localhost"]
        if len(hosts) != 1 or len(hosts[0]) > 300 or not self._goes_by(hosts[0]):
            return MisdirectedRequest()
        if scope["method"] in SAFE_METHODS or self._may_change(headers, hosts[0]):
            return None
        return Forbidden("Pages of this web site may not use the service; the operator can add it to SD_CORS_ORIGINS.")

    def _may_change(self, headers: Headers, host: str) -> bool:
        """Whether no page asks, or one that may."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site") not in ("cross-site", "same-site")
        return origin in self._sites or origin.lower().partition("://")[2] in {host.lower(), *self._public}


class HostNames:
    """Hosts as they may stand in a Host header, without the port."""

    def __init__(self, allowed: Sequence[str], public_url: str) -> None:
        public = urlsplit(public_url).hostname
        self._any_private = not allowed
        self._exact = {*_LOOPBACK, *allowed, *([public] if public else [])}
        self._ends = tuple(name[1:] for name in allowed if name.startswith("*."))

    def include(self, host: str) -> bool:
        """Whether a Host header names this service."""
        read = _HOST.fullmatch(host)
        if read is None:
            return False
        name = read.group(1).lower()
        if "*" in self._exact or name in self._exact or name.endswith(self._ends):
            return True
        return self._any_private and _is_private(name)


def _is_private(name: str) -> bool:
    if "." not in name or name.endswith(_PRIVATE_ENDS):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
