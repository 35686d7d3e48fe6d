"""The API's process entry: reads the environment, serves."""

import asyncio
import gc
import os
import socket
import sys
from importlib.metadata import version
from types import FrameType

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.connections import Config
from api.crowd import Crowd, files_allowed
from api.disk import DiskWatch
from api.events import Hub
from api.fetching import Fetcher
from api.inline import InlineImages
from api.links import LinkSecret
from api.rates import RateLimit
from api.services import FleetWatch, Services
from api.streams import Streams
from api.traffic import Traffic
from api.unsure import Unsure
from api.uploads import Intake
from shared import logs, tracing
from shared.clock import StoreClock
from shared.errors import ConfigurationError
from shared.images import ImageStore
from shared.jobs import Jobs
from shared.rates import Rates
from shared.settings import SUPERVISED, ApiSettings, load, unknown
from shared.storage import API_PATIENCE, open_home
from shared.store import AsyncStore, connect_async, require_redis
from shared.tracing import Tracing
from shared.urls import Guard
from shared.webhooks import Webhooks
from shared.workers import Workers

#: Seconds that open requests get to finish when the process is told to stop.
GRACE_SECONDS = 10


def create_services(settings: ApiSettings, traces: Tracing) -> Services:
    home = open_home(settings, API_PATIENCE, settings.output_public_url)
    store = AsyncStore(connect_async(settings.redis_url))
    jobs, images = Jobs(settings.redis_prefix), ImageStore(home)
    disk = DiskWatch(home, settings.min_free_bytes)
    clock = StoreClock()
    rates = Rates(settings.redis_prefix, settings.requests_per_second, settings.request_burst)
    guard, streams = Guard(settings.webhook_allow, proxy=settings.egress), Streams(settings.max_event_streams)
    return Services(
        settings=settings,
        version=version("imagegen"),
        store=store,
        jobs=jobs,
        images=images,
        inline=InlineImages(images),
        # A connection of its own: the subscription holds on to it.
        hub=Hub(connect_async(settings.redis_url, connections=2), jobs.channel),
        watch=FleetWatch(store, Workers(settings.redis_prefix), clock),
        clock=clock,
        unsure=Unsure(store, jobs),
        disk=disk,
        intake=Intake(
            images.inputs,
            disk,
            Fetcher(guard),
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.max_request_pixels,
        ),
        link_secret=LinkSecret(settings, store, clock),
        rate_limit=RateLimit(store, rates, settings.request_burst),
        streams=streams,
        traffic=Traffic(lambda: streams.open, settings.port),
        tracing=traces,
        webhooks=Webhooks(settings.redis_prefix),
        guard=guard,
    )


def create(settings: ApiSettings) -> tuple[FastAPI, Hub]:
    logs.configure(settings.log_format)
    if SUPERVISED not in os.environ:
        logs.warn(unknown())
    settings.require_keys()
    settings.require_output_dir()
    require_redis(settings.redis_url)
    services = create_services(settings, tracing.start("imagegen-api", os.environ))
    return create_app(services), services.hub


class Server(uvicorn.Server):
    """Lets go of those who wait as soon as it is told to stop: synchronous callers get their 202, streams end."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
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
    crowd = Crowd(*limits, settings.trusted_proxies, files_allowed())
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
