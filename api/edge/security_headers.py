"""Adds headers that keep browsers from sniffing, framing, running or caching answers."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def content_security_policy(allowed: Mapping[str, str]) -> str:
    """What a page may do, by the names of directives. Whatever is not allowed is forbidden."""
    forbidden = dict.fromkeys(("default-src", "frame-ancestors", "base-uri", "form-action"), "'none'")
    return "; ".join(f"{name} {value}" for name, value in {**forbidden, **allowed}.items())


#: A route that needs other values sets its own.
DEFAULTS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", content_security_policy({}).encode()),
    (b"cache-control", b"no-store"),
)


class SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message.get("headers", ())}
                missing = [pair for pair in DEFAULTS if pair[0] not in present]
                message["headers"] = [*message.get("headers", ()), *missing]
            await send(message)

        await self._app(scope, receive, send_with_headers)
