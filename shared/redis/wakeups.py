"""Wake-ups: messages in the broker's own format that make a worker of Celery look into its queue.

They are written by hand, so that the API needs nothing of Celery, and by the scripts that move jobs, so that no
queued job is without one. The format is Celery's task protocol 2 in kombu's Redis envelope.
"""

import base64
import json
from functools import cache

from shared.jobs.types import Backend

#: The one task. It has no arguments: which job is next is in the queue.
GENERATE = "generate"
#: What the scripts replace by an id of its own for each message.
ID = "{ID}"
_BODY = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def queue_name(backend: Backend) -> str:
    """Of Celery's queue, and the broker list behind it."""
    return f"generate.{backend}"


@cache
def wake_up(backend: Backend) -> str:
    """The message as JSON, with ID in the place of its id."""
    queue = queue_name(backend)
    unset = ["shadow", "eta", "expires", "group", "group_index", "parent_id", "stamped_headers"]
    headers = dict.fromkeys(unset) | {
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
    properties = {
        "correlation_id": ID,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": queue, "routing_key": queue},
        "delivery_tag": ID,
        "priority": 0,
        "body_encoding": "base64",
    }
    envelope = {
        "body": base64.b64encode(json.dumps(_BODY).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    }
    return json.dumps(envelope)
