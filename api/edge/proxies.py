"""Reads X-Forwarded headers of trusted proxies, and normalizes paths."""

import re
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

#: Without the segments . and .., by which clients would leave it again.
_PREFIX = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)+")
#: Paths of this service begin with it, so as a prefix it cannot be told apart and is never removed.
_API = "/api"


class ForwardedHeaders:
    """Takes the client's address, scheme, host and path prefix from X-Forwarded-For, -Proto, -Host and -Prefix."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._app = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("client") and scope["client"][0] in self._app.trusted_hosts:
            host, prefix = _last(scope, b"x-forwarded-host"), _last(scope, b"x-forwarded-prefix")
            # uvicorn reads a single lower-case word only.
            scheme = _last(scope, b"x-forwarded-proto").decode("latin-1").lower()
            if scheme in ("http", "https"):
                scope["scheme"] = scheme
            if host:
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"host"] + [(b"host", host)]
            if _PREFIX.fullmatch(path := prefix.decode("latin-1").rstrip("/")):
                scope["root_path"] = path
        await self._app(scope, receive, send)  # type: ignore[arg-type]


def _last(scope: Scope, header: bytes) -> bytes:
    """The last entry of a header: each proxy appends one, and only the last comes from the trusted proxy."""
    values = [value for name, value in scope["headers"] if name == header]
    return bytes(values[-1].rpartition(b",")[2].strip()) if values else b""


class PathNormalization:
    """Removes a proxy's path prefix, doubled slashes and a trailing slash.

    Whoever reads is redirected to the path without that slash; many clients follow no redirect of a POST.
    """

    def __init__(self, app: ASGIApp, public_url: str) -> None:
        self._app = app
        self._prefix = urlsplit(public_url).path if public_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        prefix = scope.get("root_path", "") if self._prefix is None else self._prefix
        scope["root_path"] = prefix
        path = _normalize(scope["path"], prefix)
        scope["path"] = path.removesuffix("/") or "/"
        if scope["path"] == path or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        # Without a host: the one that the client knows may not be known here.
        await RedirectResponse(prefix + quote(scope["path"]) + query.decode("latin-1"))(scope, receive, send)


def _normalize(path: str, prefix: str) -> str:
    if "//" in path:
        path = re.sub("/{2,}", "/", path)
    # A client may add the prefix to an address that already has it.
    while prefix not in ("", _API) and (path == prefix or path.startswith(f"{prefix}/")):
        path = path.removeprefix(prefix) or "/"
    return path


class PathPrefix:
    """Puts the prefix back in front of the path, as ASGI requires, once all other middleware has seen the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["root_path"]:
            scope["path"] = scope["root_path"] + scope["path"]
        await self._app(scope, receive, send)
