"""Wake-ups are what Celery itself would send."""

import json
from typing import Any

import pytest

from shared.jobs.types import Backend
from shared.redis.celery_queues import create_celery, queue_for
from shared.redis.store import connect
from shared.redis.wakeups import GENERATE, wake_up
from shared.settings.service import Settings
from tests.shared.conftest import Records

WAKE_UP = "wake-up-1"
#: Differ between any two messages, or say who sent it.
OWN = {"delivery_tag", "reply_to", "origin", "correlation_id"}


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= leaves(None if name in OWN else inner, f"{path}/{name}")
    return found


@pytest.mark.parametrize("backend", Backend)
def test_a_wake_up_is_what_celery_would_send(redis_url: str, backend: Backend) -> None:
    settings = Settings(redis_url=redis_url, redis_prefix=f"queues-{backend}:")
    app = create_celery(settings)

    queue: Any = queue_for(backend)
    # With the exchange named, or Celery would go around it.
    route = {"queue": queue, "exchange": queue.exchange, "routing_key": queue.routing_key}
    app.send_task(GENERATE, task_id=WAKE_UP, priority=0, ignore_result=True, **route)

    with connect(redis_url) as client:
        sent: Any = client.lrange(f"{settings.redis_prefix}generate.{backend}", 0, -1)
    app.close()
    assert len(sent) == 1
    assert leaves(json.loads(wake_up(backend).replace("{ID}", WAKE_UP))) == leaves(json.loads(sent[0]))


def test_no_two_wake_ups_are_the_same(records: Records) -> None:
    for _ in range(3):
        records.accepted()

    held: Any = records.store.client.lrange(f"{records.prefix}generate.null", 0, -1)
    assert len({json.loads(message)["properties"]["delivery_tag"] for message in held}) == 3
