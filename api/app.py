"""Builds the FastAPI application from its routes and middleware; needs no network."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from copy import copy

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api import problems
from api.delivery.protocol_errors import ProtocolErrors
from api.delivery.stream_limit import StreamSlot
from api.edge.authentication import Authentication
from api.edge.body_limit import BodyLimit
from api.edge.body_timeout import BodyTimeout
from api.edge.hosts import HostCheck
from api.edge.proxies import ForwardedHeaders, PathNormalization, PathPrefix
from api.edge.security_headers import SecurityHeaders
from api.edge.telemetry.middleware import RequestTelemetry
from api.edge.telemetry.tracing import telemetry_config
from api.native import docs, events, generate, health, images, jobs, key, metrics, models, webhooks
from api.protocols import openapi
from api.protocols.mcp.endpoint import PATH as MCP_PATH
from api.protocols.mcp.endpoint import McpEndpoint, mcp_route
from api.protocols.registration import ProtocolRoutes, enabled_protocols, error_renderers
from api.services import Services
from api.studio import page
from shared.jobs.types import ApiProtocol

DESCRIPTION = """Send a prompt, get images. `POST /api/txt2img` waits for them; `POST /api/jobs` returns immediately.
Errors are RFC 9457 problem details with a stable `code`."""

#: Paths whose requests may contain images.
IMAGE_PATHS = ("/api/txt2img", "/api/img2img", "/api/upscale", "/api/jobs", MCP_PATH)


def create_app(services: Services) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub = asyncio.create_task(services.event_hub.run())
        yield
        await mcp.close()
        hub.cancel()
        await asyncio.gather(hub, return_exceptions=True)
        await services.store.aclose()
        await asyncio.to_thread(services.tracing.close)

    protocols, mcp = enabled_protocols(services.settings.protocols), McpEndpoint(services)
    with_mcp = ApiProtocol.MCP in services.settings.protocols
    app = Api(
        title="imagegen",
        version=services.version,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        openapi_tags=openapi.openapi_tags(protocols, with_mcp=with_mcp),
        telemetry=telemetry_config(services.tracing),
    )
    app.state.services = services
    app.state.protocols = protocols
    _add_middleware(app, services, protocols)
    problems.install(app)
    openapi.install(app, protocols, with_mcp=with_mcp)
    webhooks.describe(app)
    # FastAPI matches the routes of an included router twice, and copies them. The most frequent ones come first.
    for module in (jobs, generate, events, images, models, webhooks, health, key, metrics, docs, page):
        app.router.routes += module.router.routes
    heads = _head_routes(app.router.routes)
    # Two protocols share the list of models.
    routers = {id(router): (router, routes.tag) for routes in protocols for router in routes.routers}
    for router, tag in routers.values():
        app.include_router(router, tags=[tag])
        heads += _head_routes(router.routes)
    app.router.routes += heads
    if with_mcp:
        app.router.routes.append(mcp_route(mcp))
    return app


def _head_routes(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """Routes that answer HEAD as these answer GET; the server leaves out the body. Event streams have no end: 405."""
    heads = list[BaseRoute]()
    for route in routes:
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()) and StreamSlot not in route.dependencies:
            head = copy(route)
            head.methods, head.include_in_schema = {"HEAD"}, False
            heads.append(head)
    return heads


class Api(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        # Outside of Starlette's own outermost middleware, so that answers to bugs have these headers and are counted.
        services: Services = self.state.services
        protocols: Sequence[ProtocolRoutes] = self.state.protocols
        stack = SecurityHeaders(ProtocolErrors(super().build_middleware_stack(), error_renderers(protocols)))
        requests = RequestTelemetry(stack, services.request_metrics, log=services.settings.access_log)

        async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
            # All middleware is for requests; the other scope is the lifespan of the process.
            await (requests if scope["type"] == "http" else self.router)(scope, receive, send)

        return dispatch


def _add_middleware(app: FastAPI, services: Services, protocols: Sequence[ProtocolRoutes]) -> None:
    """Add what a request passes before its route; the last one added runs first."""
    settings = services.settings
    app.add_middleware(PathPrefix)
    app.add_middleware(BodyTimeout, seconds=settings.body_timeout_seconds)
    prefixes = tuple(f"{prefix}/" for routes in protocols for prefix in routes.prefixes)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, paths=IMAGE_PATHS, prefixes=prefixes)
    app.add_middleware(Authentication, keys=settings.api_key, links=services.link_secret, limit=services.rate_limit)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
            # The packages of other services send and read headers of their own, more with every version.
            allow_headers=("*",),
            expose_headers=("*",),
            allow_private_network=True,
        )
    app.add_middleware(HostCheck, settings=settings)
    app.add_middleware(PathNormalization, public_url=settings.public_url)
    if settings.trusted_proxies:
        app.add_middleware(ForwardedHeaders, trusted=settings.trusted_proxies)
