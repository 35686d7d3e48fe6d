"""The route /mcp. The SDK is imported for the first client only: it takes 25 MB and 0.4 s of CPU time."""

import asyncio
import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from api.intake.json_body import body_chunks, media_type
from api.intake.json_uploads import JsonUploadReader
from api.models.cached_read import CachedRead
from api.protocols.mcp.calls import BodyImages
from api.services import Services
from shared.errors import UnsupportedMediaType

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

PATH = "/mcp"


class McpEndpoint:
    """An ASGI application. It keeps no sessions, so any API process can answer any request."""

    def __init__(self, services: Services) -> None:
        self._services = services
        #: A start that failed, for example because too many files were open, is tried again.
        self._manager: CachedRead[StreamableHTTPSessionManager] = CachedRead(self._start, math.inf)
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises UnsupportedMediaType and what reading a body raises."""
        http = Request(scope, receive)
        if media_type(http) != "application/json":
            raise UnsupportedMediaType
        manager = await self._manager.get()
        async with AsyncExitStack() as exits:
            await manager.handle_request(scope, await self._without_images(http, exits), send)

    async def _without_images(self, http: Request, exits: AsyncExitStack) -> Receive:
        """The body without its long texts, which go to files as they arrive: the SDK holds and parses all of a body.

        Raises InvalidRequest, PayloadTooLarge, StorageFull and StorageUnavailable.
        """
        uploads = await exits.enter_async_context(self._services.uploads.open_request())
        reader = JsonUploadReader(uploads.start)
        body = await reader.read(body_chunks(http))
        http.state.body_images = BodyImages(uploads, reader.uploads)
        return _repeated(body, http.receive)

    async def close(self) -> None:
        """End all requests."""
        self._stop.set()
        if self._running is not None:
            await self._running

    async def _start(self) -> "StreamableHTTPSessionManager":
        manager = await asyncio.to_thread(_create_manager, self._services)
        ready = asyncio.Event()
        self._running = asyncio.create_task(self._run(manager, ready))
        await ready.wait()
        return manager

    async def _run(self, manager: "StreamableHTTPSessionManager", ready: asyncio.Event) -> None:
        # A task of its own, because the manager must be left by the task that entered it.
        async with AsyncExitStack() as exits:
            await exits.enter_async_context(manager.run())
            ready.set()
            await self._stop.wait()


def _repeated(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def _create_manager(services: Services) -> "StreamableHTTPSessionManager":
    from mcp.server.transport_security import TransportSecuritySettings

    from api.protocols.mcp.server import create_server

    server = create_server(services)
    server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=services.settings.max_body_bytes,
        # HostCheck has already compared the host with SD_ALLOWED_HOSTS.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    return server.session_manager


def mcp_route(endpoint: McpEndpoint) -> Route:
    """GET is 405, as the protocol asks of servers that send nothing unasked: it would be a stream that stays silent."""
    return Route(PATH, endpoint, methods=["POST"], include_in_schema=False)
