"""Passes the messages of MCP clients that only start programs on to the service: `imagegen mcp`."""

import asyncio
import signal
from typing import Any
from urllib.parse import urlsplit

import httpx2

from compose.cli.client import ApiClient, base_url
from compose.cli.client_error import ClientError
from shared.settings.explanations import install_command
from shared.settings.http_server import is_loopback

#: A call of a tool waits for up to 45 seconds.
TIMEOUT_SECONDS = 90.0


def serve(url: str, key: str | None) -> None:
    """Serve standard input and output until the client closes them. Raises ClientError."""
    try:
        import mcp  # noqa: F401 - not part of every installation
    except ImportError:
        raise ClientError(f"imagegen mcp needs the package mcp: {install_command('api')}") from None
    # This client explains errors in a sentence; MCP's client does not.
    ApiClient(url, key).read("/health", "status", "version")
    # Python would wait for the thread that reads the next message.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(_serve(url, key))


async def _serve(url: str, key: str | None) -> None:
    from mcp import Client, MCPError
    from mcp.client.streamable_http import streamable_http_client
    from mcp.server.stdio import stdio_server

    url = base_url(url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # No proxy stands before this machine's own servers.
    uses_proxies = not is_loopback(urlsplit(url).hostname or "")
    try:
        async with httpx2.AsyncClient(headers=headers, timeout=TIMEOUT_SECONDS, trust_env=uses_proxies) as http:
            transport = streamable_http_client(f"{url}/mcp", http_client=http)
            async with Client(transport) as client, stdio_server() as (read_stream, write_stream):
                server = _server(client)
                await server.run(read_stream, write_stream, server.create_initialization_options())
    except* (OSError, httpx2.HTTPError, MCPError):
        raise ClientError(
            f"{url}/mcp does not respond: see `imagegen status`, and SD_PROTOCOLS of the service."
        ) from None


def _server(client: Any) -> Any:
    """A server that has the tools of the service and passes their calls on."""
    from mcp.server.lowlevel import Server

    async def list_tools(_: Any, __: Any) -> Any:
        return await client.list_tools()

    async def call_tool(context: Any, params: Any) -> Any:
        return await client.call_tool(params.name, params.arguments, progress_callback=context.session.report_progress)

    return Server(
        "imagegen",
        version=client.server_info and client.server_info.version,
        instructions=client.instructions,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
