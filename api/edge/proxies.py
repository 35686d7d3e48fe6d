"""What proxies tell of the client behind them, where they are believed; and paths as proxies and clients write them."""

import re
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from urllib.parse import quote, urlsplit

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
#: Addresses of the service's own begin with it: where it is also the prefix, nobody could tell one from the other.
_OWN = "/api"


class ForwardedHeaders:
    """Takes the client's address, the scheme, the host and the path prefix from X-Forwarded-For, -Proto, -Host and
    -Prefix of trusted proxies."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(entry) for entry in trusted]
        self._app = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") and self._trusts(scope["client"][0]):
            host, prefix = _last(scope, b"x-forwarded-host"), _last(scope, b"x-forwarded-prefix")
            if host:
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"host"] + [(b"host", host)]
            if prefix and _PREFIX.fullmatch(path := prefix.decode("latin-1").rstrip("/")):
                scope["root_path"] = path
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    def _trusts(self, peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _last(scope: Scope, header: bytes) -> bytes:
    """Each proxy appends to it; the last entry is of the one that is trusted."""
    told = [value for name, value in scope["headers"] if name == header]
    return bytes(told[-1].rpartition(b",")[2].strip()) if told else b""


class PathNormalization:
    """Makes one of the ways in which an address may be written: without the prefix that a proxy has for the service,
    without slashes that stand twice. One with a slash at its end is led to the one without."""

    def __init__(self, app: ASGIApp, public_url: str) -> None:
        self._app = app
        self._prefix = urlsplit(public_url).path if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prefix = scope.get("root_path", "") if self._prefix is None else self._prefix
            scope["root_path"] = prefix
            scope["path"] = path = _plain(scope["path"], prefix)
            if len(path) > 1 and path.endswith("/"):
                query = b"?" + scope["query_string"] if scope["query_string"] else b""
                # Not to a host: which one the client knows may not be told here.
                location = prefix + quote(path[:-1]) + query.decode("latin-1")
                await RedirectResponse(location)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _plain(path: str, prefix: str) -> str:
    path = re.sub("/{2,}", "/", path)
    # As often as it is there: a client may put it before an address that has it already.
    while prefix not in ("", _OWN) and (path == prefix or path.startswith(f"{prefix}/")):
        path = path.removeprefix(prefix) or "/"
    return path


class PathPrefix:
    """Past all doors: from here on the path has its prefix, as ASGI will have it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["root_path"]:
            scope["path"] = scope["root_path"] + scope["path"]
        await self._app(scope, receive, send)
