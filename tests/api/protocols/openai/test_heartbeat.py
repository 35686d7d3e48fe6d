"""A silent stream has heartbeats."""

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from api.delivery import events
from api.services import Services
from tests.api.delivery.test_disconnects import SCOPE, run, settings

BODY = json.dumps({"prompt": "x", "stream": True}).encode()
PATH = "/v1/images/generations"
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


def test_silence_is_filled_with_comments(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies close what is silent for too long; clients skip comments. No worker takes the job."""
    monkeypatch.setattr(events, "PING_SECONDS", 0.05)
    parts: list[bytes] = []

    async def calls(app: FastAPI, services: Services) -> None:
        bodies = [{"type": "http.request", "body": BODY, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return bodies.pop() if bodies else await asyncio.Future()

        async def send(message: MutableMapping[str, Any]) -> None:
            parts.extend(filter(None, [message.get("body")]))
            if len(parts) == 2:
                # The process stops before the job ends.
                services.event_hub.close()

        await app(
            {**SCOPE, "app": app, "state": {}, "path": PATH, "raw_path": PATH.encode(), "headers": HEADERS},
            receive,
            send,
        )

    run(settings(redis_url, tmp_path), calls)

    *beats, last = parts
    assert beats == [b": heartbeat\n\n"] * 2
    assert b"not-finished" in last
