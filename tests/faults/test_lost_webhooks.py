"""Webhooks survive killed housekeepers, workers and Redis."""

import signal
from http.server import BaseHTTPRequestHandler

from tests.faults.processes import child_of, children_of, is_alive
from tests.faults.service import Service
from tests.shared.webhooks.harness import expire_waits
from tests.shared.webhooks.receiver import Arrival, Receiver, answer
from tests.support.polling import wait_until
from tests.support.valkey import Valkey


def expire_all_waits(service: Service, receiver: Receiver) -> None:
    """End all waits of the webhooks of this receiver."""
    expire_waits(service.store, f"{service.prefix}webhooks:", receiver.origin)


def all_settled(service: Service) -> bool:
    return not list(service.store.scan_iter(f"{service.prefix}webhooks:event:*"))


def test_a_delivery_of_a_killed_housekeeper_is_repeated_under_the_same_id(service: Service, receiver: Receiver) -> None:
    housekeeper = service.processes["housekeeper"]

    def kill(handler: BaseHTTPRequestHandler, arrival: Arrival) -> None:
        housekeeper.send(signal.SIGKILL)

    receiver.behave = kill
    job_id = service.submit(webhook_url=receiver.url)
    first = receiver.next()
    wait_until(lambda: not housekeeper.is_running)
    receiver.behave = answer(204)
    service.start_missing()
    expire_all_waits(service, receiver)
    again = receiver.next()

    for arrival in (first, again):
        arrival.verify()
    assert first.message["data"]["id"] == job_id
    assert (again.id, again.body) == (first.id, first.body)
    wait_until(lambda: all_settled(service))


def test_a_new_housekeeper_sends_webhooks_of_jobs_that_ended_without_one(service: Service, receiver: Receiver) -> None:
    housekeeper = service.processes["housekeeper"]
    family = [housekeeper.pid, *(child.pid for child in children_of(housekeeper))]
    housekeeper.send(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, family)))
    jobs = [service.submit(webhook_url=receiver.url) for _ in range(10)]
    for job_id in jobs:
        service.wait_until_done(job_id)
    assert receiver.arrivals == []

    service.start_missing()

    received = [receiver.next() for _ in jobs]
    for arrival in received:
        arrival.verify()
    assert {arrival.message["data"]["id"] for arrival in received} == set(jobs)
    wait_until(lambda: all_settled(service))


def test_webhooks_survive_a_killed_redis(service: Service, receiver: Receiver, valkey: Valkey) -> None:
    receiver.behave = answer(503)
    jobs = [service.submit(webhook_url=receiver.url) for _ in range(5)]
    for job_id in jobs:
        service.wait_until_done(job_id)
    refused = receiver.next()

    def settled_by_now() -> bool:
        expire_all_waits(service, receiver)
        return all_settled(service)

    valkey.kill()
    valkey.start()
    receiver.behave = answer(204)
    wait_until(settled_by_now)

    for arrival in receiver.arrivals:
        arrival.verify()
    ids = {arrival.id for arrival in receiver.arrivals}
    assert refused.id in ids
    assert ids == {f"{job_id}_succeeded_1" for job_id in jobs}


def test_a_job_of_a_killed_worker_sends_both_starts_and_one_end(service: Service, receiver: Receiver) -> None:
    job_id = service.start_job(1.0, webhook_url=receiver.url, webhook_events=["started", "succeeded"])

    child_of(service.processes[service.worker_of(job_id)]).kill()
    received = receiver.until("succeeded")

    assert [arrival.id for arrival in received] == [
        f"{job_id}_started_1",
        f"{job_id}_started_2",
        f"{job_id}_succeeded_2",
    ]
    wait_until(lambda: all_settled(service))
