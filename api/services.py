"""Holds the parts that routes use, and the dependency that hands them over."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated

from fastapi import Depends, Request

from api.delivery.events import EventHub, read_job
from api.delivery.feed import JobFeed
from api.delivery.inline_images import InlineImages
from api.delivery.live_jobs import LiveJobs
from api.delivery.stream_limit import StreamLimit
from api.edge.authentication import Caller
from api.edge.rate_limit import RateLimit
from api.edge.signed_links import LinkSecret
from api.edge.telemetry.metrics import RequestMetrics
from api.intake.disk_space import DiskSpace
from api.intake.idempotency import UnconfirmedJobs
from api.intake.uploads import UploadStore
from api.models.cached_read import CachedRead
from api.models.catalogue_cache import CatalogueCache
from api.models.offered import OfferedModels, is_configured, is_offered
from api.problems import set_job_id
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
from shared.workers.records import Fleet


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
    fleet_cache: CachedRead[Fleet]
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

    @cached_property
    def limits(self) -> RequestLimits:
        settings = self.settings
        return RequestLimits(
            max_pixels=settings.max_pixels,
            max_images=settings.max_images_per_job,
            max_pixel_steps=settings.max_pixel_steps,
        )

    async def read_job(self, job_id: str, owner: str | None = None) -> JobSnapshot:
        """Raises StoreUnavailable, and JobNotFound also for a job of another owner than the given one."""
        return await read_job(self.store, self.jobs, job_id, owner)

    async def find_job(self, http: Request, caller: Caller, job_id: str) -> JobSnapshot:
        """A job that the caller may see; from now on, problems with the request name it. Raises as `read_job` does."""
        snapshot = await self.read_job(job_id, caller.visible_owner)
        set_job_id(http, job_id)
        return snapshot

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
