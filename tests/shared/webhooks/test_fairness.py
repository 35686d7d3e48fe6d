"""Who waits for whom: owners that share a receiver, owners with many of them, and receivers that are bad for some."""

import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler

import pytest

from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import (
    FAILURES_BEFORE_COOLDOWN,
    MAX_IN_FLIGHT_PER_QUEUE,
    DeliveryOutcome,
    ReceiverState,
    Webhook,
)
from tests.polling import wait_until
from tests.shared.webhooks.office import Office
from tests.shared.webhooks.receiver import Arrival, Receiver, answer, hang

ORIGIN = "http://127.0.0.1:9"
DELIVERED = DeliveryOutcome(DeliveryState.DELIVERED, 204)
REFUSED = DeliveryOutcome(DeliveryState.PENDING, 503, "answered 503", receiver=ReceiverState.REFUSED)
AWAY = DeliveryOutcome(DeliveryState.PENDING, None, "could not be reached", receiver=ReceiverState.UNREACHABLE)
DEAD = DeliveryOutcome(DeliveryState.DEAD, 500, "answered 500")


def owner_of(webhook: Webhook) -> str:
    return webhook.snapshot().job.owner


def done(office: Office, owner: str, count: int = 1, **fields: object) -> list[str]:
    return [office.succeeded(office.started(office.accepted(owner, **fields))).id for _ in range(count)]


def test_an_owner_whose_workflow_hangs_delays_no_other_owner_of_the_same_n8n(
    office: Office, receiver: Receiver
) -> None:
    released = threading.Event()

    def behave(handler: BaseHTTPRequestHandler, arrival: Arrival) -> None:
        (hang(released) if arrival.path == "/webhook/slow" else answer(204))(handler, arrival)

    receiver.behave = behave
    with office.sending(office.courier([receiver.origin]), threads=8):
        done(office, "slow", 40, webhook_url=f"{receiver.origin}/webhook/slow")
        wait_until(lambda: len(receiver.arrivals) == MAX_IN_FLIGHT_PER_QUEUE)
        begin = time.monotonic()
        done(office, "quick", 20, webhook_url=f"{receiver.origin}/webhook/quick")
        wait_until(lambda: [arrival.path for arrival in receiver.arrivals].count("/webhook/quick") == 20)
        took = time.monotonic() - begin
        released.set()

    assert took < 5


def test_owners_take_turns_however_many_webhooks_and_receivers_one_of_them_has(office: Office) -> None:
    for port in range(10, 20):
        done(office, "crowd", 3, webhook_url=f"http://127.0.0.1:{port}/")
    done(office, "one", 3)
    done(office, "two", 3)

    turns = [owner_of(office.take(1)[0]) for _ in range(6)]
    together = [owner_of(webhook) for webhook in office.take(20)]

    assert Counter(turns) == {"crowd": 2, "one": 2, "two": 2}
    assert Counter(together[:3]) == {"crowd": 1, "one": 1, "two": 1}


def test_an_owner_whose_receivers_all_hang_leaves_senders_to_others(office: Office) -> None:
    for port in range(10, 50):
        done(office, "crowd", webhook_url=f"http://127.0.0.1:{port}/")

    crowd = office.take(32)
    done(office, "one")

    assert 16 <= len(crowd) < 32
    assert [owner_of(webhook) for webhook in office.take(32 - len(crowd))] == ["one"]
    # Its share is full, and nothing to wait for but what it has under way.
    claimed = office.run(office.webhooks.claim(31 - len(crowd)))
    assert claimed.webhooks == ()
    assert claimed.next_due_ms is not None
    assert claimed.next_due_ms > 10_000
    for webhook in crowd[:3]:
        office.settle(webhook, DELIVERED)
    assert office.take(34 - len(crowd))


def test_a_path_that_one_owner_is_refused_at_stays_open_for_others(office: Office) -> None:
    done(office, "bad", 10)
    done(office, "good", 10)
    for _ in range(FAILURES_BEFORE_COOLDOWN):
        for webhook in office.take():
            office.settle(webhook, REFUSED if owner_of(webhook) == "bad" else DELIVERED)

    done(office, "bad")
    done(office, "good", 2)
    assert {owner_of(webhook) for webhook in office.take()} == {"good"}


def test_an_origin_that_is_down_is_tried_once_for_everybody(office: Office) -> None:
    owners = [f"owner{number}" for number in range(8)]
    for owner in owners:
        done(office, owner, 2)
    for webhook in office.take(FAILURES_BEFORE_COOLDOWN):
        office.settle(webhook, AWAY)

    assert office.take() == ()
    wait = office.run(office.webhooks.claim(1)).next_due_ms
    assert 9_000 < wait <= 10_000

    for owner in owners:
        office.lapse(f"{ORIGIN} {owner}")
    (trial,) = office.take()
    assert office.take() == ()
    assert office.run(office.webhooks.claim(1)).next_due_ms <= 500
    office.settle(trial, DELIVERED)
    for owner in owners:
        office.lapse(f"{ORIGIN} {owner}")
    assert {owner_of(webhook) for webhook in office.take()} == set(owners)


def test_a_trial_whose_sender_died_is_followed_by_another(office: Office) -> None:
    done(office, "n8n", 6)
    for webhook in office.take(1):
        office.settle(webhook, AWAY)
    (lost,) = office.take()
    assert office.take() == ()

    office.lapse(lost.queue)

    assert len(office.take()) == 1


def test_what_was_on_its_way_before_queues_had_owners_is_delivered(office: Office, receiver: Receiver) -> None:
    owners = ("", "n8n", "dify")
    jobs = [job for owner in owners for job in done(office, owner, 3, webhook_url=receiver.url)]
    taken = office.take(1)[0]
    office.store.client.hset(f"{office.prefix}webhooks:event:{taken.id}", "next", "")
    _as_before(office, receiver.origin)
    office.lapse(receiver.origin)

    with office.sending(office.courier([receiver.origin])):
        done(office, "n8n", webhook_url=receiver.url)
        wait_until(lambda: not office.keys)

    assert {arrival.message["data"]["id"] for arrival in receiver.arrivals} >= set(jobs)
    assert len({arrival.id for arrival in receiver.arrivals}) == len(receiver.arrivals) == len(jobs) + 1


def _as_before(office: Office, origin: str) -> None:
    """The keys as they were when a queue was of one receiver, whoever's its webhooks were."""
    client, begin = office.store.client, f"{office.prefix}webhooks:"
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


def test_whatever_the_millisecond_nothing_is_left_waiting_without_anybody_who_looks_again(office: Office) -> None:
    (job,) = done(office, "n8n")
    client, begin = office.store.client, f"{office.prefix}webhooks:"
    for number in range(400):
        seconds, micros = client.time()
        # Due in the millisecond that is about to begin, in all of its parts as the clock goes on.
        at = seconds * 1000 + micros // 1000 + 1
        client.zadd(f"{begin}queue:{ORIGIN} n8n", {f"{job}_succeeded_1": at})
        client.zadd(f"{begin}due:n8n", {f"{ORIGIN} n8n": at})
        client.zadd(f"{begin}owners", {"n8n": at})
        claimed = office.run(office.webhooks.claim(1))
        assert claimed.webhooks or claimed.next_due_ms is not None, number
        for webhook in claimed.webhooks:
            office.settle(webhook, REFUSED)
        client.delete(f"{begin}health:{ORIGIN} n8n")


def test_one_owner_cannot_fill_redis(office: Office) -> None:
    client, pending = office.store.client, f"{office.prefix}webhooks:pending:n8n"
    running = office.started(office.accepted("n8n", webhook_events=["progress"]))
    ended = done(office, "n8n", 3)
    office.step(running, 1)
    most = 20_000
    # Not there any more, and found to be the newest.
    client.zadd(pending, {f"x{number}": 0 for number in range(most - client.zcard(pending))})

    done(office, "n8n", 2)

    assert client.zcard(pending) == most
    assert office.deliveries(running)["progress"].state == "dropped"
    told = {job_id: office.run(office.jobs.read(job_id)).deliveries[0] for job_id in ended}
    assert [one.state for one in told.values()] == ["dropped", "pending", "pending"]
    assert told[ended[0]].last_error == f"gave way to newer ones: {most} of its owner were waiting"
    assert client.hget(f"{office.prefix}counts", "webhooks_dropped|limit") == "2"
    # Others have a room of their own.
    assert len(done(office, "dify", 2)) == 2
    assert {owner_of(webhook) for webhook in office.take()} == {"n8n", "dify"}


def test_what_one_owner_was_given_up_on_pushes_out_nothing_of_others(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.webhooks.outbox.MAX_DEAD_PER_OWNER", 2)
    (quiet,) = done(office, "quiet")
    office.settle(office.take()[0], DEAD)
    done(office, "loud", 4)
    for webhook in office.take():
        office.settle(webhook, DEAD)

    page = office.run(office.webhooks.list_page(DeliveryState.DEAD, 10, None))

    assert len(page.webhooks) == 3
    assert quiet in {webhook.job_id for webhook in page.webhooks}
