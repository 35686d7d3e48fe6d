"""The API's process entry: reads the environment, serves."""

import asyncio
import gc
import os
import socket
import sys
from contextlib import closing, suppress
from importlib.metadata import version
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.delivery.events import EventHub
from api.delivery.inline_images import InlineImages
from api.delivery.stream_limit import StreamLimit
from api.edge.connection_limit import ConnectionLimit, files_allowed
from api.edge.connections import Config
from api.edge.rate_limit import RateLimit
from api.edge.request_metrics import RequestMetrics
from api.edge.signed_links import LinkSecret
from api.intake.disk_space import DiskSpace
from api.intake.fetching import ImageFetcher
from api.intake.unconfirmed import UnconfirmedJobs
from api.intake.uploads import UploadStore
from api.services import FleetWatch, Services
from shared.errors import ConfigurationError, StoreUnavailable
from shared.jobs.operations import Jobs
from shared.jobs.types import Backend
from shared.net.outbound import OutboundClient
from shared.observability import logs, tracing
from shared.observability.tracing import Tracing
from shared.redis.clock import StoreClock
from shared.redis.rate_limits import RateLimits
from shared.redis.store import AsyncStore, Store, connect, connect_async, require_redis
from shared.settings.api import ApiSettings
from shared.settings.loading import SUPERVISED, load, unknown
from shared.storage import API_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from shared.webhooks.outbox import Webhooks
from shared.workers.records import Workers

#: Seconds that open requests get to finish when the process is told to stop.
GRACE_SECONDS = 10


def create_services(settings: ApiSettings, traces: Tracing) -> Services:
    home = open_storage(settings, API_TIMEOUTS, settings.output_public_url)
    store = AsyncStore(connect_async(settings.redis_url))
    jobs, images = Jobs(settings.redis_prefix), ImageStore(home)
    disk = DiskSpace(home, settings.min_free_bytes)
    clock = StoreClock()
    rates = RateLimits(settings.redis_prefix, settings.requests_per_second, settings.request_burst)
    guard, streams = (
        OutboundClient(settings.webhook_allow, proxy=settings.egress),
        StreamLimit(settings.max_event_streams),
    )
    return Services(
        settings=settings,
        version=version("imagegen"),
        store=store,
        jobs=jobs,
        images=images,
        inline=InlineImages(images),
        # A connection of its own: the subscription holds on to it.
        hub=EventHub(connect_async(settings.redis_url, connections=2), jobs.channel),
        watch=FleetWatch(store, Workers(settings.redis_prefix), clock),
        clock=clock,
        unsure=UnconfirmedJobs(store, jobs),
        disk=disk,
        intake=UploadStore(
            images.inputs,
            disk,
            ImageFetcher(guard),
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.max_request_pixels,
        ),
        link_secret=LinkSecret(settings, store, clock),
        rate_limit=RateLimit(store, rates, settings.request_burst),
        streams=streams,
        traffic=RequestMetrics(lambda: streams.open, settings.port),
        tracing=traces,
        webhooks=Webhooks(settings.redis_prefix),
        guard=guard,
    )


def create(settings: ApiSettings) -> tuple[FastAPI, EventHub]:
    logs.configure_logging(settings.log_format)
    if SUPERVISED not in os.environ:
        logs.log_warnings(unknown())
    settings.require_keys()
    settings.require_output_dir()
    if require_redis(settings.redis_url):
        _repair_queues(settings)
    services = create_services(settings, tracing.start_tracing("imagegen-api", os.environ))
    return create_app(services), services.hub


def _repair_queues(settings: ApiSettings) -> None:
    """Adopt jobs that the version before queued; the housekeeper does it later where the store cannot."""
    jobs = Jobs(settings.redis_prefix)
    with closing(connect(settings.redis_url)) as client, suppress(StoreUnavailable):
        Store(client).run_all([jobs.repair_queue(backend) for backend in Backend])


class Server(uvicorn.Server):
    """Lets go of those who wait as soon as it is told to stop: synchronous callers get their 202, streams end."""

    def __init__(self, config: uvicorn.Config, hub: EventHub) -> None:
        super().__init__(config)
        self._hub = hub
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hub.close)
        super().handle_exit(sig, frame)


def main() -> None:
    # All that was imported stays: looking through it for garbage would stop every answer for 0.05 s now and then.
    gc.freeze()
    try:
        settings = load(ApiSettings)
        app, hub = create(settings)
    except ConfigurationError as error:
        sys.exit(error.detail)
    limits = settings.max_connections, settings.max_connections_per_address
    crowd = ConnectionLimit(*limits, settings.trusted_proxies, files_allowed())
    config = Config(
        app,
        settings,
        crowd,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(config, hub).run()


if __name__ == "__main__":
    main()
