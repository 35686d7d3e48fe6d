"""The SDK behind /mcp, which the first client starts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
        with pytest.raises(OSError, match="too many open files"):
            await at({"type": "http", "method": "DELETE"}, None, None)
        await at({"type": "http", "method": "DELETE"}, None, None)
        await at.close()

    monkeypatch.setattr(endpoint, "_create_manager", create)
    asyncio.run(ask_twice(endpoint.McpEndpoint(None)))  # type: ignore[arg-type] # no manager reads them

    assert handled == ["DELETE"]
