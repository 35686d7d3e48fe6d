"""Callers that disconnect while they wait."""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from api.app import create_app
from api.services import Services
from shared.jobs.snapshots import JobFilter
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
KEY = [*SCOPE["headers"], (b"idempotency-key", b"the-same")]


async def call_and_disconnect(app: FastAPI, services: Services, **scope: Any) -> list[str]:
    """Drive the application as a server does whose client disconnects once the job is accepted.

    Returns the states of all jobs, the newest first.
    """
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        # The application listens for a disconnection only while it waits for the job.
        assert services.event_hub.listener_count > 0
        return {"type": "http.disconnect"}

    async def send(_: MutableMapping[str, Any]) -> None:
        pass

    await app({**SCOPE, "app": app, "state": {}, **scope}, receive, send)
    assert services.event_hub.listener_count == 0
    page = await services.store.run(services.jobs.list_page(JobFilter(), 10, None))
    return [snapshot.job.state for snapshot in page.jobs]


def run(settings: ApiSettings, calls: Callable[[FastAPI, Services], Awaitable[None]]) -> None:
    async def limited() -> None:
        services = Services(settings, Tracing())
        app = create_app(services)
        async with asyncio.timeout(20), app.router.lifespan_context(app):
            await calls(app, services)

    asyncio.run(limited())


def settings(redis_url: str, folder: Path) -> ApiSettings:
    prefix = f"leaving-{folder.name}:"
    return ApiSettings(
        redis_url=redis_url, redis_prefix=prefix, output_dir=folder, backends="null", default_backend="null"
    )


def test_a_disconnected_caller_leaves_no_listener_and_its_job_goes_on(redis_url: str, tmp_path: Path) -> None:
    async def calls(app: FastAPI, services: Services) -> None:
        assert await call_and_disconnect(app, services) == ["queued"]

    run(settings(redis_url, tmp_path), calls)


def test_a_disconnected_caller_cancels_only_a_job_that_it_has_created(redis_url: str, tmp_path: Path) -> None:
    async def calls(app: FastAPI, services: Services) -> None:
        cancelling = {"query_string": b"on_disconnect=cancel"}
        await call_and_disconnect(app, services, headers=KEY)
        assert await call_and_disconnect(app, services, headers=KEY, **cancelling) == ["queued"]
        assert await call_and_disconnect(app, services, **cancelling) == ["cancelled", "queued"]

    run(settings(redis_url, tmp_path), calls)
