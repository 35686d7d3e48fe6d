"""Holds the parts that routes use, and the dependency that hands them over."""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from api.delivery.events import EventHub, read_job
from api.delivery.feed import JobFeed
from api.delivery.inline_images import InlineImages
from api.delivery.live_jobs import LiveJobs
from api.delivery.stream_limit import StreamLimit
from api.edge.authentication import require_caller
from api.edge.rate_limit import RateLimit
from api.edge.signed_links import LinkSecret
from api.edge.telemetry.metrics import RequestMetrics
from api.intake.disk_space import DiskSpace
from api.intake.idempotency import UnconfirmedJobs, idempotency_scope
from api.intake.uploads import UploadStore
from api.models.catalogue_cache import CatalogueCache
from api.models.offered import OfferedModels, is_configured, is_offered
from shared.access.links import Links
from shared.access.sessions import CallerSessions
from shared.jobs.operations import Jobs
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.types import Backend
from shared.models import bfl
from shared.models.capabilities import Capabilities, RequestLimits
from shared.net.outbound import OutboundClient
from shared.observability.tracing import Tracing
from shared.redis.clock import StoreClock
from shared.redis.store import AsyncStore
from shared.settings.api import ApiSettings
from shared.storage.images import ImageStore
from shared.webhooks.outbox import Webhooks
from shared.workers.records import Fleet, Workers

#: Age limit of the cached fleet, which a flood of submissions or health checks shares.
FLEET_SECONDS = 0.5


class FleetCache:
    """The workers as Redis has them, cached for FLEET_SECONDS.

    Concurrent callers share one read and its result, also if Redis is away: otherwise each of them would wait for
    its own timeout, one after the other.
    """

    def __init__(self, store: AsyncStore, workers: Workers, clock: StoreClock) -> None:
        self._store = store
        self._workers = workers
        self._clock = clock
        self._reading: asyncio.Task[Fleet] | None = None
        self._expires = 0.0

    async def get(self) -> Fleet:
        """Raises StoreUnavailable."""
        if self._reading is not None and self._reading.done() and time.monotonic() < self._expires:
            return self._reading.result()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        # A caller that disconnects must not cancel the read for the others.
        return await asyncio.shield(self._reading)

    async def _read(self) -> Fleet:
        started_at = time.monotonic()
        fleet = await self._store.run(self._workers.read_fleet())
        self._clock.sync(fleet.store_ms, started_at)
        self._expires = time.monotonic() + FLEET_SECONDS
        return fleet


@dataclass(frozen=True)
class Services:
    settings: ApiSettings
    version: str
    store: AsyncStore
    jobs: Jobs
    image_store: ImageStore
    inline_images: InlineImages
    event_hub: EventHub
    job_feed: JobFeed
    sessions: CallerSessions
    live_jobs: LiveJobs
    fleet_cache: FleetCache
    catalogue_cache: CatalogueCache
    clock: StoreClock
    unconfirmed: UnconfirmedJobs
    disk_space: DiskSpace
    uploads: UploadStore
    link_secret: LinkSecret
    rate_limit: RateLimit
    stream_limit: StreamLimit
    request_metrics: RequestMetrics
    tracing: Tracing
    webhooks: Webhooks
    outbound: OutboundClient
    limits: RequestLimits = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        limits = RequestLimits(
            max_pixels=settings.max_pixels,
            max_images=settings.max_images_per_job,
            max_pixel_steps=settings.max_pixel_steps,
        )
        object.__setattr__(self, "limits", limits)

    async def read_job(self, job_id: str, owner: str | None = None) -> JobSnapshot:
        """Raises StoreUnavailable, and JobNotFound also for a job of another owner than the given one."""
        return await read_job(self.store, self.jobs, job_id, owner)

    async def models(self) -> OfferedModels:
        """The models that requests may name now. Raises StoreUnavailable."""
        return await self.catalogue_cache.get(await self.fleet_cache.get())

    def is_offered(self, fleet: Fleet, backend: Backend) -> bool:
        """Whether a worker serves the backend or may serve it again. Without its key the cloud is not offered."""
        return is_offered(self.settings, fleet, backend)

    def capabilities(self, fleet: Fleet, backend: Backend) -> Capabilities | None:
        """What the backend can do, as its last worker reported. The cloud's capabilities are known without a worker."""
        known = fleet.capabilities.get(backend)
        if known is None and backend is Backend.FLUX_API and is_configured(self.settings, backend):
            return bfl.capabilities(self.settings.bfl_default_model)
        return known

    def base_url(self, request: Request) -> str:
        """The beginning of links, without a slash at the end."""
        if self.settings.public_url:
            return self.settings.public_url
        scope = request.scope
        host = next((value for name, value in scope["headers"] if name == b"host"), None)
        return _base_url(scope["scheme"], scope.get("server"), host, scope["root_path"])

    async def links(self, request: Request) -> Links:
        """Raises StoreUnavailable."""
        return Links(self.base_url(request), await self.link_secret.signer())


@lru_cache(maxsize=256)
def _base_url(scheme: str, server: tuple[str, int | None] | None, host: bytes | None, root_path: str) -> str:
    """The same for all requests with this Host header."""
    headers = [] if host is None else [(b"host", host)]
    address = {"scheme": scheme, "server": server, "headers": headers, "root_path": root_path}
    return str(Request({"type": "http", "path": "/", **address}).base_url).rstrip("/")


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


# Asynchronous although it awaits nothing: FastAPI runs synchronous dependencies on a thread per request.
async def _services(request: Request) -> Services:
    return services_of(request)


ServicesDep = Annotated[Services, Depends(_services)]

#: What a parameter of this name gets in a DirectRoute: the same as FastAPI would give it.
SOURCES: Mapping[str, Callable[[Request], Any]] = {
    "http": lambda http: http,
    "services": services_of,
    "caller": require_caller,
    "idempotency": idempotency_scope,
    "job_id": lambda http: http.path_params["job_id"],
}


class DirectRoute(APIRoute):
    """Calls its endpoint without FastAPI's resolution of dependencies, a fifth of the time of a cheap request.

    Endpoints that need more than SOURCES has, or return no Response, are left to FastAPI. The signature describes both
    to clients.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        signature = inspect.signature(endpoint)
        self.is_direct = signature.parameters.keys() <= SOURCES.keys() and signature.return_annotation is Response
        if self.is_direct:
            self._sources = {name: SOURCES[name] for name in signature.parameters}
            self.app = self._call

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = Request(scope, receive, send)
        response: Response = await self.endpoint(**{name: source(http) for name, source in self._sources.items()})
        await response(scope, receive, send)
