"""The SDK behind /mcp, which the first client starts."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from api.protocols.mcp import endpoint


def test_a_start_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, handled = [OSError("too many open files")], list[str]()

    class Manager:
        @asynccontextmanager
        async def run(self) -> AsyncIterator[None]:
            yield

        async def handle_request(self, scope: Any, *_: object) -> None:
            handled.append(scope["method"])

    def create(_: object) -> Manager:
        if errors:
            raise errors.pop()
        return Manager()

    async def ask_twice(at: Any) -> None:
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
        with pytest.raises(OSError, match="too many open files"):
            await at(scope, None, None)
        await at(scope, None, None)
        await at.close()

    async def without_images(*_: object) -> None:
        pass

    monkeypatch.setattr(endpoint, "_create_manager", create)
    monkeypatch.setattr(endpoint.McpEndpoint, "_without_images", without_images)
    asyncio.run(ask_twice(endpoint.McpEndpoint(None)))  # type: ignore[arg-type] # no manager reads them

    assert handled == ["POST"]


def test_the_sdk_is_not_loaded_before_the_first_client() -> None:
    """It takes 25 MB."""
    code = "import sys, api.app; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_tool_has_a_schema_that_language_models_refuse() -> None:
    """Gemini and llama.cpp refuse every call that comes with such a tool."""
    from api.protocols.mcp.server import create_server

    tools = asyncio.run(create_server(SimpleNamespace(version="1")).list_tools())  # type: ignore[arg-type]

    schemas = json.dumps([tool.input_schema for tool in tools])
    assert "strength" in schemas
    assert not re.search("exclusive|maxLength", schemas)
