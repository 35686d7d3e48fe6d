"""Starts the API process: reads the environment, serves."""

import asyncio
import gc
import os
import signal
import socket
import sys
from contextlib import closing, suppress
from functools import partial
from importlib.metadata import version
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.delivery.events import EventHub
from api.delivery.feed import JobFeed
from api.delivery.inline_images import InlineImages
from api.delivery.live_jobs import LiveJobs
from api.delivery.stream_limit import StreamLimit
from api.edge.connection_limit import ConnectionLimit, raise_file_limit
from api.edge.connections import Config
from api.edge.rate_limit import RateLimit
from api.edge.signed_links import LinkSecret
from api.edge.telemetry.metrics import RequestMetrics
from api.intake.disk_space import DiskSpace
from api.intake.idempotency import UnconfirmedJobs
from api.intake.images.fetching import ImageFetcher
from api.intake.uploads import UploadStore
from api.models.cached_read import CachedRead
from api.models.catalogue_cache import CatalogueCache
from api.models.fleet import FLEET_SECONDS, read_fleet
from api.services import Services
from shared.access.sessions import CallerSessions
from shared.errors import ConfigurationError, StoreUnavailable
from shared.jobs.operations import Jobs
from shared.jobs.types import Backend
from shared.net.outbound import OutboundClient
from shared.observability import logs, tracing
from shared.observability.tracing import Tracing
from shared.redis.clock import StoreClock
from shared.redis.rate_limits import RateLimits
from shared.redis.store import AsyncStore, Store, async_connections, connect, require_redis
from shared.settings.api import ApiSettings
from shared.settings.loading import SUPERVISED_VARIABLE, load, setting_warnings
from shared.storage import API_TIMEOUTS, open_storage
from shared.storage.images import ImageStore
from shared.webhooks.outbox import Webhooks
from shared.workers.records import Workers

#: Seconds that open requests get to finish once the process must stop.
GRACE_SECONDS = 10
#: Exit code if a second Ctrl-C has cut off the open requests.
FORCED_STOP = 128 + signal.SIGINT


def create_services(settings: ApiSettings, traces: Tracing) -> Services:
    storage = open_storage(settings, API_TIMEOUTS, settings.output_public_url)
    connections = async_connections(settings.redis_url)
    store = AsyncStore(connections)
    jobs, images = Jobs(settings.redis_prefix), ImageStore(storage)
    disk_space = DiskSpace(storage, settings.min_free_bytes)
    clock = StoreClock()
    rates = RateLimits(settings.redis_prefix, settings.requests_per_second, settings.request_burst)
    outbound = OutboundClient(settings.webhook_allow, proxy=settings.parsed_egress_proxy)
    stream_limit = StreamLimit(settings.max_event_streams)
    event_hub = EventHub(connections, store, jobs)
    sessions = CallerSessions(settings.redis_prefix)
    return Services(
        settings=settings,
        version=version("imagegen"),
        store=store,
        jobs=jobs,
        image_store=images,
        inline_images=InlineImages(images),
        event_hub=event_hub,
        job_feed=JobFeed(store, jobs, event_hub),
        sessions=sessions,
        live_jobs=LiveJobs(store, jobs, event_hub, sessions),
        fleet_cache=CachedRead(partial(read_fleet, store, Workers(settings.redis_prefix), clock), FLEET_SECONDS),
        catalogue_cache=CatalogueCache(settings, store),
        clock=clock,
        unconfirmed=UnconfirmedJobs(store, jobs),
        disk_space=disk_space,
        uploads=UploadStore(
            images.inputs,
            disk_space,
            ImageFetcher(outbound),
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.max_request_pixels,
        ),
        link_secret=LinkSecret(settings, store, clock),
        rate_limit=RateLimit(store, rates, settings.request_burst),
        stream_limit=stream_limit,
        request_metrics=RequestMetrics(lambda: stream_limit.open_streams, settings.port),
        tracing=traces,
        webhooks=Webhooks(settings.redis_prefix),
        outbound=outbound,
    )


def create(settings: ApiSettings) -> tuple[FastAPI, EventHub]:
    logs.configure_logging(settings.log_format)
    if SUPERVISED_VARIABLE not in os.environ:
        logs.log_warnings(setting_warnings(settings))
    settings.require_keys()
    settings.require_output_dir()
    if require_redis(settings.redis_url):
        _repair_queues(settings)
    services = create_services(settings, tracing.start_tracing("imagegen-api", os.environ))
    return create_app(services), services.event_hub


def _repair_queues(settings: ApiSettings) -> None:
    """Adopt jobs that the version before queued; the housekeeper does it later where the store cannot."""
    jobs = Jobs(settings.redis_prefix)
    with closing(connect(settings.redis_url)) as client, suppress(StoreUnavailable):
        Store(client).run_all([jobs.repair_queue(backend) for backend in Backend])


class Server(uvicorn.Server):
    """Releases waiting callers as soon as it must stop: synchronous calls get 202, event streams end."""

    def __init__(self, config: uvicorn.Config, hub: EventHub) -> None:
        super().__init__(config)
        self._hub = hub
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            _force_stop()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hub.close)
        super().handle_exit(sig, frame)


def exit_on_signals() -> None:
    """Let signals end this process with exit code 0.

    Without this, uvicorn would end an orderly stop with the signal: it raises it again once it has stopped.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(*_: object) -> NoReturn:
    signal.signal(signal.SIGINT, _force_stop)
    sys.exit()


def _force_stop(*_: object) -> NoReturn:
    """Leave at once: whatever is interrupted in between would be reported as an error."""
    os._exit(FORCED_STOP)


def main() -> None:
    exit_on_signals()
    # Imported objects stay for good. Scanning them for garbage would now and then delay every answer by 0.05 s.
    gc.freeze()
    try:
        settings = load(ApiSettings)
        app, hub = create(settings)
        # Nor do the routes and what they share.
        gc.freeze()
    except ConfigurationError as error:
        sys.exit(error.detail)
    limits = settings.max_connections, settings.max_connections_per_address
    connection_limit = ConnectionLimit(*limits, settings.trusted_proxies, raise_file_limit())
    config = Config(
        app,
        settings,
        connection_limit,
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
