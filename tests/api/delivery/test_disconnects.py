"""Callers that disconnect while they wait."""

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from api.app import create_app
from api.services import Services
from shared.jobs.snapshots import JobFilter
from shared.jobs.states import State
from shared.observability.tracing import Tracing
from shared.settings.api import ApiSettings

BODY = json.dumps({"prompt": "x"}).encode()
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/api/txt2img",
    "raw_path": b"/api/txt2img",
    "query_string": b"",
    "headers": [
        (b"host", b"localhost"),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(BODY)).encode()),
    ],
    "server": ("localhost", 7860),
    "scheme": "http",
    "http_version": "1.1",
}


async def call_and_disconnect(services: Services) -> None:
    """Drive the application as a server does whose client disconnects once the job is accepted."""
    app = create_app(services)
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        # The application listens for a disconnection only while it waits for the job.
        assert services.event_hub.listener_count == 1
        return {"type": "http.disconnect"}

    async def send(_: MutableMapping[str, Any]) -> None:
        pass

    async with app.router.lifespan_context(app):
        await app({**SCOPE, "app": app, "state": {}}, receive, send)
        assert services.event_hub.listener_count == 0
        (snapshot,) = await page(services)
        assert snapshot.job.state is State.QUEUED


async def page(services: Services) -> tuple[Any, ...]:
    return (await services.store.run(services.jobs.list_page(JobFilter(), 10, None))).jobs


def test_a_disconnected_caller_leaves_no_listener_and_its_job_goes_on(redis_url: str, tmp_path: Path) -> None:
    settings = ApiSettings(
        redis_url=redis_url, redis_prefix="leaving:", output_dir=tmp_path, backends="null", default_backend="null"
    )

    async def limited() -> None:
        async with asyncio.timeout(20):
            await call_and_disconnect(Services(settings, Tracing()))

    asyncio.run(limited())
