"""The queues between the API and the workers: one per backend, carrying job ids only."""

import base64
import json
import ssl
import uuid
from dataclasses import dataclass
from functools import cache
from urllib.parse import parse_qsl

from celery import Celery
from kombu import Exchange, Queue
from kombu.serialization import dumps

from shared.schemas import Backend, Priority
from shared.settings import Settings

#: The one task: its only argument, and its task id, is the job's id.
GENERATE = "generate"

#: Lists per queue, in the order in which they are emptied (0 first); what kombu makes of message priorities.
_STEPS = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}
_SEPARATOR = "\x06\x16"


def broker_lists(backend: Backend) -> list[str]:
    """The lists that messages for a backend lie on, most urgent first."""
    return [_list_name(f"generate.{backend}", step) for step in sorted(_STEPS.values())]


def _list_name(queue: str, step: int) -> str:
    return f"{queue}{_SEPARATOR}{step}" if step else queue


@dataclass(frozen=True)
class QueuedMessage:
    """A message in the broker's own format and the list it belongs on."""

    key: str
    payload: str


@cache
def queue_for(backend: Backend) -> Queue:
    # A bare Queue(name) binds to the exchange `celery`: every pinned worker would share that one binding.
    name = f"generate.{backend}"
    return Queue(name, Exchange(name), routing_key=name)


def create_celery(settings: Settings) -> Celery:
    """The wiring that both ends share. The result backend stays off: the job record is the truth."""
    address, _, options = settings.redis_url.replace("unix://", "redis+socket://", 1).partition("?")
    app = Celery("imagegen", broker=address)
    if address.startswith("rediss://"):
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED, **dict(parse_qsl(options))}
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        # A job goes on when the broker is away: its lease and its record decide what becomes of it.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_transport_options={
            "global_keyprefix": settings.redis_prefix,
            "queue_order_strategy": "priority",
            "priority_steps": sorted(_STEPS.values()),
            "sep": _SEPARATOR,
            # Longer than any job, so that the broker never hands out a second copy of one that still runs.
            "visibility_timeout": 2 * settings.job_timeout_seconds + 3600,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
        },
    )
    return app


class JobQueue:
    """Writes messages as Celery would send them, for the store to push together with the job's record.

    Sending through a producer would be a second step: a crash between the two would leave a record that nobody
    works on. The format is Celery's task protocol 2 in kombu's Redis envelope.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app

    def message(self, job_id: str, backend: Backend, priority: Priority) -> QueuedMessage:
        queue = queue_for(backend)
        # With its own words for the arguments: Celery takes a while to find the same ones.
        task = self._app.amqp.as_task_v2(
            job_id, GENERATE, args=(job_id,), ignore_result=True, argsrepr=f"({job_id!r},)", kwargsrepr="{}"
        )
        content_type, content_encoding, body = dumps(task.body, serializer="json")
        step = _STEPS[priority]
        envelope = {
            "body": base64.b64encode(body.encode()).decode(),
            "content-type": content_type,
            "content-encoding": content_encoding,
            "headers": task.headers,
            "properties": {
                **task.properties,
                "delivery_mode": 2,
                "delivery_info": {"exchange": queue.exchange.name, "routing_key": queue.routing_key},
                "delivery_tag": str(uuid.uuid4()),
                "priority": step,
                "body_encoding": "base64",
            },
        }
        return QueuedMessage(_list_name(queue.name, step), json.dumps(envelope))
