"""The API, put together; nothing here touches the network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from api import generate, health, images, jobs, openapi, problems, webhooks
from api.bodies import BodyLimit
from api.callers import Authentication
from api.services import Services

DESCRIPTION = """Send a prompt, get pictures. `POST /api/txt2img` waits for them; `POST /api/jobs` answers at once.
Errors are RFC 9457 problem details with a stable `code`."""

#: Calls that pictures may come with.
TAKE_PICTURES = ("/api/txt2img", "/api/img2img", "/api/jobs")


def create_app(services: Services) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub = asyncio.create_task(services.hub.run())
        yield
        hub.cancel()
        await asyncio.gather(hub, return_exceptions=True)
        await services.store.client.aclose(close_connection_pool=True)

    app = FastAPI(title="imagegen", version=services.version, description=DESCRIPTION, lifespan=lifespan)
    app.state.services = services
    # The last one added comes first.
    app.add_middleware(BodyLimit, larger=dict.fromkeys(TAKE_PICTURES, services.settings.max_body_bytes))
    app.add_middleware(Authentication, keys=services.settings.api_key, links=services.link_secret)
    problems.install(app)
    openapi.install(app)
    webhooks.describe(app)
    for router in (generate.router, jobs.router, images.router, webhooks.router, health.router):
        app.include_router(router)
    return app
