"""Fairness between owners that share a receiver, have many receivers, or have receivers that hang."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler

import pytest

from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import (
    MAX_IN_FLIGHT_PER_QUEUE,
    DeliveryOutcome,
    ReceiverState,
    Webhook,
)
from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.receiver import Arrival, Receiver, answer, hang
from tests.support.polling import wait_until

ORIGIN = "http://127.0.0.1:9"
DELIVERED = DeliveryOutcome(DeliveryState.DELIVERED, 204)
REFUSED = DeliveryOutcome(DeliveryState.PENDING, 503, "answered 503", receiver=ReceiverState.REFUSED)
AWAY = DeliveryOutcome(DeliveryState.PENDING, None, "could not be reached", receiver=ReceiverState.UNREACHABLE)
DEAD = DeliveryOutcome(DeliveryState.DEAD, 500, "answered 500")


def owner_of(webhook: Webhook) -> str:
    return webhook.snapshot().job.owner


def done(outbox: OutboxHarness, owner: str, count: int = 1, **fields: object) -> list[str]:
    return [outbox.succeeded(outbox.started(outbox.accepted(owner, **fields))).id for _ in range(count)]


def test_a_hanging_workflow_delays_no_other_owner_at_the_same_origin(outbox: OutboxHarness, receiver: Receiver) -> None:
    released = threading.Event()

    def behave(handler: BaseHTTPRequestHandler, arrival: Arrival) -> None:
        (hang(released) if arrival.path == "/webhook/slow" else answer(204))(handler, arrival)

    receiver.behave = behave
    # A webhook that waited for one that hangs would not come before the test ends.
    with outbox.sending(outbox.sender([receiver.origin], total_seconds=60), threads=8):
        done(outbox, "slow", 40, webhook_url=f"{receiver.origin}/webhook/slow")
        wait_until(lambda: len(receiver.arrivals) == MAX_IN_FLIGHT_PER_QUEUE)
        done(outbox, "quick", 20, webhook_url=f"{receiver.origin}/webhook/quick")
        wait_until(lambda: [arrival.path for arrival in receiver.arrivals].count("/webhook/quick") == 20, seconds=40)
        released.set()


def test_owners_take_turns_however_many_webhooks_one_has(outbox: OutboxHarness) -> None:
    for port in range(10, 20):
        done(outbox, "crowd", 3, webhook_url=f"http://127.0.0.1:{port}/")
    done(outbox, "one", 3)
    done(outbox, "two", 3)

    turns = [owner_of(outbox.claim(1)[0]) for _ in range(6)]
    together = [owner_of(webhook) for webhook in outbox.claim(20)]

    assert Counter(turns) == {"crowd": 2, "one": 2, "two": 2}
    assert Counter(together[:3]) == {"crowd": 1, "one": 1, "two": 1}


def test_hanging_receivers_of_one_owner_leave_senders_to_others(outbox: OutboxHarness) -> None:
    for port in range(10, 50):
        done(outbox, "crowd", webhook_url=f"http://127.0.0.1:{port}/")

    crowd = outbox.claim(32)
    done(outbox, "one")

    assert 16 <= len(crowd) < 32
    assert [owner_of(webhook) for webhook in outbox.claim(32 - len(crowd))] == ["one"]
    # Its share is full: only webhooks in flight can end the wait.
    claimed = outbox.run(outbox.webhooks.claim(31 - len(crowd)))
    assert claimed.webhooks == ()
    assert claimed.next_due_ms is not None
    assert claimed.next_due_ms > 10_000
    for webhook in crowd[:3]:
        outbox.settle(webhook, DELIVERED)
    assert outbox.claim(34 - len(crowd))


def test_webhooks_from_before_queues_had_owners_are_delivered(outbox: OutboxHarness, receiver: Receiver) -> None:
    owners = ("", "n8n", "dify")
    jobs = [job for owner in owners for job in done(outbox, owner, 3, webhook_url=receiver.url)]
    taken = outbox.claim(1)[0]
    outbox.store.client.hset(f"{outbox.prefix}webhooks:event:{taken.id}", "next", "")
    _as_before(outbox, receiver.origin)
    outbox.expire_waits(receiver.origin)

    with outbox.sending(outbox.sender([receiver.origin])):
        done(outbox, "n8n", webhook_url=receiver.url)
        wait_until(lambda: not outbox.keys)

    assert {arrival.message["data"]["id"] for arrival in receiver.arrivals} >= set(jobs)
    assert len({arrival.id for arrival in receiver.arrivals}) == len(receiver.arrivals) == len(jobs) + 1


def _as_before(outbox: OutboxHarness, origin: str) -> None:
    """The keys of the version in which all owners shared the queue of a receiver."""
    client, begin = outbox.store.client, f"{outbox.prefix}webhooks:"
    for kind in ("queue", "flying"):
        names = list(client.scan_iter(f"{begin}{kind}:{origin}*"))
        client.zunionstore(f"{begin}{kind}:{origin}", names)
        for name in {*names} - {f"{begin}{kind}:{origin}"}:
            client.delete(name)
    for key in client.scan_iter(f"{begin}event:*"):
        client.hset(key, "receiver", origin)
    for key in client.scan_iter(f"{begin}*"):
        if ":due:" in key or key.endswith((":owners", ":pending:")) or (":flying:" in key and "://" not in key):
            client.delete(key)
    client.zadd(f"{begin}due", {origin: 1})


def test_pending_webhooks_are_always_looked_at_again(outbox: OutboxHarness) -> None:
    (job,) = done(outbox, "n8n")
    client, begin = outbox.store.client, f"{outbox.prefix}webhooks:"
    for number in range(400):
        seconds, micros = client.time()
        # Due at every fraction of the next millisecond.
        at = seconds * 1000 + micros // 1000 + 1
        client.zadd(f"{begin}queue:{ORIGIN} n8n", {f"{job}_succeeded_1": at})
        client.zadd(f"{begin}due:n8n", {f"{ORIGIN} n8n": at})
        client.zadd(f"{begin}owners", {"n8n": at})
        claimed = outbox.run(outbox.webhooks.claim(1))
        assert claimed.webhooks or claimed.next_due_ms is not None, number
        for webhook in claimed.webhooks:
            outbox.settle(webhook, REFUSED)
        client.delete(f"{begin}health:{ORIGIN} n8n")


def test_one_owner_cannot_fill_redis(outbox: OutboxHarness) -> None:
    client, pending = outbox.store.client, f"{outbox.prefix}webhooks:pending:n8n"
    running = outbox.started(outbox.accepted("n8n", webhook_events=["progress"]))
    ended = done(outbox, "n8n", 3)
    outbox.step(running, 1)
    most = 20_000
    # Webhooks that no longer exist and sort as the newest.
    client.zadd(pending, {f"x{number}": 0 for number in range(most - client.zcard(pending))})
    client.zadd(f"{outbox.prefix}webhooks:progress:n8n", {"lost": 0})

    done(outbox, "n8n", 2)

    assert client.zcard(pending) == most
    assert outbox.deliveries(running)["progress"].state == "dropped"
    latest = {job_id: outbox.run(outbox.jobs.read(job_id)).deliveries[0] for job_id in ended}
    assert [one.state for one in latest.values()] == ["dropped", "pending", "pending"]
    assert latest[ended[0]].last_error == f"dropped in favour of newer ones: {most} of its owner were pending"
    assert client.hget(f"{outbox.prefix}counts", "webhooks_dropped|limit") == "2"
    # Other owners have separate limits.
    assert len(done(outbox, "dify", 2)) == 2
    assert {owner_of(webhook) for webhook in outbox.claim()} == {"n8n", "dify"}


def test_dead_webhooks_of_one_owner_displace_none_of_others(
    outbox: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.webhooks.outbox.MAX_DEAD_PER_OWNER", 2)
    (quiet,) = done(outbox, "quiet")
    outbox.settle(outbox.claim()[0], DEAD)
    done(outbox, "loud", 4)
    for webhook in outbox.claim():
        outbox.settle(webhook, DEAD)

    page = outbox.run(outbox.webhooks.list_page(DeliveryState.DEAD, 10, None))

    assert len(page.webhooks) == 3
    assert quiet in {webhook.job_id for webhook in page.webhooks}
