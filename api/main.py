"""The API's process entry: reads the environment, serves."""

import sys
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.events import Hub
from api.services import FleetWatch, Services
from shared import logs
from shared.errors import ConfigurationError
from shared.images import ImageStore
from shared.jobs import Jobs
from shared.queues import JobQueue, create_celery
from shared.settings import ApiSettings, load
from shared.store import AsyncStore, connect_async
from shared.workers import Workers

#: Seconds that open requests get to finish when the process is told to stop.
GRACE_SECONDS = 10


def create_services(settings: ApiSettings) -> Services:
    if not settings.redis_url:
        raise ConfigurationError("SD_REDIS_URL is empty: name a Redis server, or start everything with `imagegen up`.")
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    store = AsyncStore(connect_async(settings.redis_url))
    jobs = Jobs(settings.redis_prefix)
    return Services(
        settings=settings,
        version=version("imagegen"),
        store=store,
        jobs=jobs,
        queue=JobQueue(create_celery(settings)),
        images=ImageStore(settings.output_dir),
        # A connection of its own: the subscription holds on to it.
        hub=Hub(connect_async(settings.redis_url, connections=2), jobs.channel),
        watch=FleetWatch(store, Workers(settings.redis_prefix)),
    )


def app() -> FastAPI:
    """For `uvicorn --factory api.main:app`."""
    settings = load(ApiSettings)
    logs.configure(settings.log_format)
    return create_app(create_services(settings))


def main() -> None:
    try:
        settings = load(ApiSettings)
        application = app()
    except ConfigurationError as error:
        sys.exit(error.detail)
    uvicorn.run(
        application,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    main()
