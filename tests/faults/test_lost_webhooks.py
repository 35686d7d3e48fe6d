"""What becomes of webhooks while those who send them, those who make them, and those who keep them are killed."""

import signal
from http.server import BaseHTTPRequestHandler

from tests.faults.processes import child_of, children_of, is_alive
from tests.faults.service import Service
from tests.polling import wait_until
from tests.shared.webhooks import office
from tests.shared.webhooks.receiver import Arrival, Receiver, answer
from tests.valkey import Valkey


def lapse(service: Service, receiver: Receiver) -> None:
    """As if everything that waits for this receiver had waited long enough."""
    office.lapse(service.store, f"{service.prefix}webhooks:", receiver.origin)


def all_settled(service: Service) -> bool:
    return not list(service.store.scan_iter(f"{service.prefix}webhooks:event:*"))


def test_what_a_killed_housekeeper_had_sent_and_not_marked_is_sent_again_under_the_same_id(
    service: Service, receiver: Receiver
) -> None:
    housekeeper = service.processes["housekeeper"]

    def kill(handler: BaseHTTPRequestHandler, arrival: Arrival) -> None:
        housekeeper.send(signal.SIGKILL)

    receiver.behave = kill
    job_id = service.submit(webhook_url=receiver.url)
    first = receiver.next()
    wait_until(lambda: not is_alive(housekeeper.pid))
    receiver.behave = answer(204)
    service.mend()
    lapse(service, receiver)
    again = receiver.next()

    for arrival in (first, again):
        arrival.verify()
    assert first.message["data"]["id"] == job_id
    assert (again.id, again.body) == (first.id, first.body)
    wait_until(lambda: all_settled(service))


def test_webhooks_of_jobs_that_end_without_a_housekeeper_are_sent_by_the_next_one(
    service: Service, receiver: Receiver
) -> None:
    housekeeper = service.processes["housekeeper"]
    family = [housekeeper.pid, *(child.pid for child in children_of(housekeeper))]
    housekeeper.send(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, family)))
    jobs = [service.submit(webhook_url=receiver.url) for _ in range(10)]
    for job_id in jobs:
        service.wait_until_done(job_id)
    assert receiver.arrivals == []

    service.mend()

    heard = [receiver.next() for _ in jobs]
    for arrival in heard:
        arrival.verify()
    assert {arrival.message["data"]["id"] for arrival in heard} == set(jobs)
    wait_until(lambda: all_settled(service))


def test_webhooks_outlive_a_killed_redis(service: Service, receiver: Receiver, valkey: Valkey) -> None:
    receiver.behave = answer(503)
    jobs = [service.submit(webhook_url=receiver.url) for _ in range(5)]
    for job_id in jobs:
        service.wait_until_done(job_id)
    refused = receiver.next()

    valkey.kill()
    valkey.start()
    receiver.behave = answer(204)
    wait_until(lambda: lapse(service, receiver) or all_settled(service))

    for arrival in receiver.arrivals:
        arrival.verify()
    ids = {arrival.id for arrival in receiver.arrivals}
    assert refused.id in ids
    assert ids == {f"{job_id}_succeeded_1" for job_id in jobs}


def test_a_job_whose_worker_is_killed_tells_of_both_starts_and_of_one_end(service: Service, receiver: Receiver) -> None:
    job_id = service.begin(1.0, webhook_url=receiver.url, webhook_events=["started", "succeeded"])

    child_of(service.processes[service.renderer_of(job_id)]).kill()
    heard = receiver.until("succeeded")

    assert [arrival.id for arrival in heard] == [f"{job_id}_started_1", f"{job_id}_started_2", f"{job_id}_succeeded_2"]
    wait_until(lambda: all_settled(service))
