"""Messages to workers are what Celery itself would send."""

import json
from typing import Any

import pytest

from shared.queues import GENERATE, JobQueue, create_celery, queue_for
from shared.schemas import Backend, Priority
from shared.settings import Settings
from shared.store import connect

JOB = "019aaf3e-6a1c-7b61-9c0e-3f1f7d1c2b4a"
STEPS = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}
#: Differ between any two messages.
OWN = {"delivery_tag", "reply_to", "origin"}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= leaves(None if name in OWN else inner, f"{path}/{name}")
    return found


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("priority", Priority)
def test_a_message_is_what_celery_would_send(redis_url: str, backend: Backend, priority: Priority) -> None:
    settings = Settings(redis_url=redis_url, redis_prefix=f"queues-{backend}-{priority}:")
    app = create_celery(settings)

    queue: Any = queue_for(backend)
    # With the exchange named, or Celery would go around it.
    route = {"queue": queue, "exchange": queue.exchange, "routing_key": queue.routing_key}
    app.send_task(GENERATE, args=(JOB,), task_id=JOB, priority=STEPS[priority], ignore_result=True, **route)
    ours = JobQueue(app).message(JOB, backend, priority)

    with connect(redis_url) as client:
        sent: Any = client.lrange(settings.redis_prefix + ours.key, 0, -1)
    app.close()
    assert len(sent) == 1
    assert leaves(json.loads(ours.payload)) == leaves(json.loads(sent[0]))


def test_no_two_messages_have_the_same_tag() -> None:
    queue = JobQueue(create_celery(Settings(redis_url="redis://nowhere")))

    payloads = [json.loads(queue.message(JOB, Backend.SD, Priority.NORMAL).payload) for _ in range(2)]

    assert payloads[0]["properties"]["delivery_tag"] != payloads[1]["properties"]["delivery_tag"]
