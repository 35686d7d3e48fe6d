"""Records what workers publish about jobs, in the order of publication."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from shared.jobs.snapshots import JobEvent
from shared.redis.keys import Keys
from tests.stack import Stack
from tests.support.process import START_SECONDS


@contextmanager
def recorded_events(stack: Stack) -> Iterator[Callable[[str], list[JobEvent]]]:
    """The events of a job from here on until its last one."""
    with redis.Redis.from_url(stack.settings["SD_REDIS_URL"], decode_responses=True) as client:
        messages = client.pubsub(ignore_subscribe_messages=True)
        messages.subscribe(Keys(stack.prefix).channel)

        def of_job(job_id: str) -> list[JobEvent]:
            recorded = list[JobEvent]()
            while not recorded or recorded[-1].type != "done":
                message = messages.get_message(timeout=START_SECONDS)
                # The answer to the subscription is ignored, and so has no message.
                if message and (event := JobEvent.parse(message["data"])).job_id == job_id:
                    recorded.append(event)
            return recorded

        try:
            yield of_job
        finally:
            messages.close()
