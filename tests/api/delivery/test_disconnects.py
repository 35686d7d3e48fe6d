"""A caller that hangs up while it waits."""

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from api.app import create_app
from api.main import create_services
from api.services import Services
from shared.jobs.snapshots import JobFilter
from shared.jobs.states import State
from shared.observability.tracing import NoTracing
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


async def call_and_leave(services: Services) -> None:
    """As a server would drive the application for a connection that closes once the job is accepted."""
    app = create_app(services)
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        # Only who waits for its job listens for the end of the connection.
        assert services.event_hub.listening == 1
        return {"type": "http.disconnect"}

    async def send(_: MutableMapping[str, Any]) -> None:
        pass

    async with app.router.lifespan_context(app):
        await app({**SCOPE, "app": app, "state": {}}, receive, send)
        assert services.event_hub.listening == 0
        (snapshot,) = await page(services)
        assert snapshot.job.state is State.QUEUED


async def page(services: Services) -> tuple[Any, ...]:
    return (await services.store.run(services.jobs.list_page(JobFilter(), 10, None))).jobs


def test_who_leaves_leaves_no_listener_and_the_job_goes_on(redis_url: str, tmp_path: Path) -> None:
    settings = ApiSettings(
        redis_url=redis_url, redis_prefix="leaving:", output_dir=tmp_path, backends="null", default_backend="null"
    )

    async def limited() -> None:
        async with asyncio.timeout(20):
            await call_and_leave(create_services(settings, NoTracing()))

    asyncio.run(limited())
