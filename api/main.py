"""Starts the API process: reads the environment, serves."""

import asyncio
import gc
import os
import signal
import socket
import sys
from contextlib import closing, suppress
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.delivery.events import EventHub
from api.edge.connection_limit import ConnectionLimit, raise_file_limit
from api.edge.connections import Config
from api.services import Services
from shared.errors import ConfigurationError, StoreUnavailable
from shared.jobs.operations import Jobs
from shared.jobs.types import Backend
from shared.observability import logs, tracing
from shared.redis.store import Store, connect, require_redis
from shared.settings.api import ApiSettings
from shared.settings.loading import SUPERVISED_VARIABLE, load, setting_warnings

#: Seconds that open requests get to finish once the process must stop.
GRACE_SECONDS = 10
#: Exit code if a second Ctrl-C has cut off the open requests.
FORCED_STOP = 128 + signal.SIGINT


def create(settings: ApiSettings) -> tuple[FastAPI, EventHub]:
    logs.configure_logging(settings.log_format)
    if SUPERVISED_VARIABLE not in os.environ:
        logs.log_warnings(setting_warnings(settings))
    settings.require_keys()
    settings.require_output_dir()
    if require_redis(settings.redis_url):
        _repair_queues(settings)
    services = Services(settings, tracing.start_tracing("imagegen-api", os.environ))
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
