"""A job whose message the broker lost is not forgotten, even by a housekeeper that comes after another."""

from shared.queues import broker_lists
from shared.schemas import Backend
from tests.faults.processes import kill_whole
from tests.faults.service import Service


def test_a_housekeeper_that_follows_a_killed_one_sends_lost_messages_again(service: Service) -> None:
    busy = [service.begin(4.0) for _ in service.renderers]
    taken = [service.submit() for _ in service.renderers]
    job_id = service.submit()

    for name in broker_lists(Backend.NULL):
        service.store.delete(f"{service.prefix}{name}")
    kill_whole(service.processes["housekeeper"])
    service.mend()

    states = {service.finished(known).state for known in [*busy, *taken, job_id]}
    assert states == {"succeeded"}
    service.processes["housekeeper"].wait_for(f"the message of job {job_id} was lost")
