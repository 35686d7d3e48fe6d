"""Celery's app and its queues: one per backend, which wakes its workers."""

import ssl
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from celery import Celery
from kombu import Exchange, Queue

from shared.jobs.types import Backend
from shared.redis.wakeups import queue_name
from shared.settings.service import Settings


@cache
def queue_for(backend: Backend) -> Queue:
    # A bare Queue(name) binds to the exchange `celery`: every pinned worker would share that one binding.
    name = queue_name(backend)
    return Queue(name, Exchange(name), routing_key=name)


def create_celery(settings: Settings) -> Celery:
    """The configuration that all Celery processes share. There is no result backend: the job record is the truth."""
    app = Celery("imagegen")
    app.conf.update(celery_config(settings))
    return app


def celery_config(settings: Settings) -> dict[str, Any]:
    """Celery's settings, as values that JSON can hold: Flower's process gets them without loading ours."""
    address, options = _broker(settings.redis_url)
    tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED, **options}
    return {
        "broker_url": address,
        **({"broker_use_ssl": tls} if address.startswith("rediss://") else {}),
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        # One wake-up per process: a busy worker must not hold one that an idle worker could use.
        "task_acks_late": True,
        "task_create_missing_queues": False,
        "worker_prefetch_multiplier": 1,
        "broker_connection_retry_on_startup": True,
        # A Redis that becomes a replica answers with an error: its name may lead to its successor by now.
        "broker_channel_error_retry": True,
        # A job continues without the broker: its lease and its record decide its outcome.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            "global_keyprefix": settings.redis_prefix,
            "priority_steps": [0],
            # Or kombu copies each wake-up in work into Redis and back, which nobody needs, and ends a worker that loses
            # Redis while it has one in work and waits for the next: it closes the channel twice (kombu 5.7).
            "ack_emulation": False,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    }


def _broker(redis_url: str) -> tuple[str, dict[str, str]]:
    """The URL as kombu has it, which names databases in another way than redis-py, and its other options."""
    url = urlsplit(redis_url)
    options = dict(parse_qsl(url.query))
    database = options.pop("db", "")
    if url.scheme == "unix":
        return f"redis+socket://{url.netloc}{url.path}?virtual_host={database or 0}", options
    return url._replace(path=f"/{database}" if database else url.path, query="").geturl(), options
