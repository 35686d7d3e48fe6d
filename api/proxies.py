"""What proxies tell of the client behind them, where they are believed."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware


class Forwarded:
    """Takes the client's address, the scheme and the host from X-Forwarded-For, -Proto and -Host of trusted proxies."""

    def __init__(self, app: ASGIApp, trusted: Sequence[str]) -> None:
        self._networks = [ip_network(entry) for entry in trusted]
        self._app = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("client") and self._trusts(scope["client"][0]):
            told = [value for name, value in scope["headers"] if name == b"x-forwarded-host"]
            if told:
                # Each proxy appends to it; the last entry is of the one that is trusted.
                host = told[-1].rpartition(b",")[2].strip()
                scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"host"] + [(b"host", host)]
        await self._app(scope, receive, send)  # type: ignore[arg-type]

    def _trusts(self, peer: str) -> bool:
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)
