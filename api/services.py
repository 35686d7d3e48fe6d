"""What routes may ask for, and the Annotated aliases they ask with."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api.delivery.events import EventHub
from api.delivery.inline_images import InlineImages
from api.delivery.stream_limit import StreamLimit
from api.edge.authentication import Caller
from api.edge.rate_limit import RateLimit
from api.edge.request_metrics import RequestMetrics
from api.edge.signed_links import LinkSecret
from api.intake.disk_space import DiskSpace
from api.intake.unconfirmed import UnconfirmedJobs
from api.intake.uploads import UploadStore
from shared.access.links import Links
from shared.errors import JobNotFound
from shared.jobs.operations import Jobs, JobSnapshot
from shared.jobs.requests import Backend
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

#: How old the image of the workers may be. Submits and health checks share it, so a flood of either reads it once.
FLEET_SECONDS = 0.5


class FleetWatch:
    """The workers as last seen, read anew when older than FLEET_SECONDS.

    One reader at a time, and all who ask meanwhile share its answer, also when that is that Redis is away:
    otherwise each of them would wait out a timeout of its own, one after the other.
    """

    def __init__(self, store: AsyncStore, workers: Workers, clock: StoreClock) -> None:
        self._store = store
        self._workers = workers
        self._clock = clock
        self._reading: asyncio.Task[Fleet] | None = None
        self._expires = 0.0

    async def fleet(self) -> Fleet:
        """Raises StoreUnavailable."""
        if self._reading is None or (self._reading.done() and time.monotonic() >= self._expires):
            self._reading = asyncio.create_task(self._read())
        # A caller that leaves must not take the answer from the others.
        return await asyncio.shield(self._reading)

    async def _read(self) -> Fleet:
        asked_at = time.monotonic()
        fleet = await self._store.run(self._workers.fleet())
        self._clock.learn(fleet.store_ms, asked_at)
        self._expires = time.monotonic() + FLEET_SECONDS
        return fleet


@dataclass(frozen=True)
class Services:
    settings: ApiSettings
    version: str
    store: AsyncStore
    jobs: Jobs
    images: ImageStore
    inline: InlineImages
    hub: EventHub
    watch: FleetWatch
    clock: StoreClock
    unsure: UnconfirmedJobs
    disk: DiskSpace
    intake: UploadStore
    link_secret: LinkSecret
    rate_limit: RateLimit
    streams: StreamLimit
    traffic: RequestMetrics
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

    async def find(self, caller: Caller, job_id: str) -> JobSnapshot:
        """Raises JobNotFound, in the same way for a job that is not the caller's, and StoreUnavailable."""
        snapshot = await self.store.run(self.jobs.read(job_id, caller.sees))
        if snapshot is None:
            raise JobNotFound
        return snapshot

    def is_configured(self, backend: Backend) -> bool:
        """Whether this installation has it, as far as the settings tell."""
        keyless = backend is Backend.FLUX_API and self.settings.bfl_api_key is None
        return backend in self.settings.backends and not keyless

    def is_known(self, fleet: Fleet, backend: Backend) -> bool:
        """Whether somebody serves it or will again. What the cloud could do is no promise without a key."""
        remembered = backend in fleet.capabilities and backend is not Backend.FLUX_API
        return self.is_configured(backend) or remembered or bool(fleet.of(backend))

    def capabilities(self, fleet: Fleet, backend: Backend) -> Capabilities | None:
        """What the backend can do, as its last worker told; of the cloud that is known without a worker."""
        known = fleet.capabilities.get(backend)
        if known is None and backend is Backend.FLUX_API and self.is_configured(backend):
            return bfl.capabilities(self.settings.bfl_default_model)
        return known

    def base_url(self, request: Request) -> str:
        """What links begin with; no slash at the end."""
        return self.settings.public_url or str(request.base_url).rstrip("/")

    async def links(self, request: Request) -> Links:
        """Raises StoreUnavailable."""
        return Links(self.base_url(request), await self.link_secret.signer())


# Asynchronous, though it awaits nothing: FastAPI would run it on a thread otherwise, for each request.
async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
