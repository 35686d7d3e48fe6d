"""Creates the parts that routes use, and hands them over."""

from functools import cached_property, lru_cache, partial
from importlib.metadata import version
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
from api.intake.images.fetching import ImageFetcher
from api.intake.images.job_images import JobImages
from api.intake.uploads import UploadStore
from api.models.cached_read import CachedRead
from api.models.catalogue_cache import CatalogueCache
from api.models.fleet import FLEET_SECONDS, read_fleet
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
from shared.redis.rate_limits import RateLimits
from shared.redis.store import AsyncStore, async_connections
from shared.settings.api import ApiSettings
from shared.storage import API_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from shared.webhooks.outbox import Webhooks
from shared.workers.records import Fleet, Workers


class Services:
    def __init__(self, settings: ApiSettings, tracing: Tracing) -> None:
        prefix, connections = settings.redis_prefix, async_connections(settings.redis_url)
        storage = open_storage(settings, API_TIMEOUTS, settings.output_public_url)
        self.settings = settings
        self.version = version("imagegen")
        self.tracing = tracing
        self.clock = StoreClock()
        self.store = store = AsyncStore(connections)
        self.jobs = jobs = Jobs(prefix)
        self.webhooks = Webhooks(prefix)
        self.sessions = CallerSessions(prefix)
        self.outbound = OutboundClient(settings.webhook_allow, proxy=settings.parsed_egress_proxy)
        self.image_store = ImageStore(storage)
        self.inline_images = InlineImages(self.image_store)
        self.disk_space = DiskSpace(storage, settings.min_free_bytes)
        self.link_secret = LinkSecret(settings, store, self.clock)
        self.job_images = JobImages(self.image_store, self.read_job, self.link_secret)
        fetcher = ImageFetcher(self.outbound)
        self.uploads = UploadStore(settings, self.image_store.inputs, self.disk_space, fetcher, self.job_images)
        self.event_hub = EventHub(connections, store, jobs)
        self.job_feed = JobFeed(self.event_hub)
        self.live_jobs = LiveJobs(self.event_hub, self.sessions)
        self.unconfirmed = UnconfirmedJobs(store, jobs)
        self.fleet_cache = CachedRead(partial(read_fleet, store, Workers(prefix), self.clock), FLEET_SECONDS)
        self.catalogue_cache = CatalogueCache(settings, store)
        rates = RateLimits(prefix, settings.requests_per_second, settings.request_burst)
        self.rate_limit = RateLimit(store, rates, settings.request_burst)
        self.stream_limit = StreamLimit(settings.max_event_streams)
        self.request_metrics = RequestMetrics(lambda: self.stream_limit.open_streams, settings.port)

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


# Asynchronous although it awaits nothing: FastAPI runs synchronous dependencies on a thread per request.
async def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]
