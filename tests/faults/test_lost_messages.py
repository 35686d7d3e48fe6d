"""Jobs whose wake-ups the broker lost are not forgotten."""

from shared.jobs.types import Backend
from shared.redis.keys import Keys
from tests.faults.service import Service


def test_jobs_are_done_although_the_broker_lost_every_message(service: Service) -> None:
    busy = [service.begin(4.0) for _ in service.renderers]
    waiting = [service.submit() for _ in range(5)]

    service.store.delete(Keys(service.prefix).wake_ups(Backend.NULL))

    assert {service.wait_until_done(known).state for known in [*busy, *waiting]} == {"succeeded"}
