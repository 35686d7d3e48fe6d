"""Wake-ups: broker messages that make a Celery worker look into its queue.

The Lua scripts that move jobs write them, so that no queued job lacks one and the API does not need Celery. The
format is Celery's task protocol 2 in kombu's Redis envelope.
"""

import base64
import json
from functools import cache
from typing import Any

from shared.jobs.types import Backend

#: The only task. It has no arguments: the queue holds the next job.
GENERATE = "generate"
#: Placeholder that the scripts replace with a unique id.
ID = "{ID}"
_BODY = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def queue_name(backend: Backend) -> str:
    """Name of the Celery queue and of its list in the broker."""
    return f"generate.{backend}"


@cache
def wake_up(backend: Backend) -> str:
    """The message as JSON, with ID in place of its id."""
    envelope = {
        "body": base64.b64encode(json.dumps(_BODY).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": _headers(),
        "properties": _properties(queue_name(backend)),
    }
    return json.dumps(envelope)


def _headers() -> dict[str, Any]:
    unset = ["shadow", "eta", "expires", "group", "group_index", "parent_id", "stamped_headers"]
    return dict.fromkeys(unset) | {
        "lang": "py",
        "task": GENERATE,
        "id": ID,
        "root_id": ID,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "imagegen",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamps": {},
    }


def _properties(queue: str) -> dict[str, Any]:
    return {
        "correlation_id": ID,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": queue, "routing_key": queue},
        "delivery_tag": ID,
        "priority": 0,
        "body_encoding": "base64",
    }
