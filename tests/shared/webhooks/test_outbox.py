"""Which webhooks are added, when they are claimed and how they are settled: in a real Valkey, without a sender."""

import time

import pytest

from shared.jobs.types import WebhookEvent
from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import (
    MAX_IN_FLIGHT_PER_QUEUE,
    DeliveryOutcome,
)
from tests.shared.webhooks.harness import OutboxHarness

RECEIVER = "http://127.0.0.1:9"
DELIVERED = DeliveryOutcome(DeliveryState.DELIVERED, 204)
LATER = DeliveryOutcome(DeliveryState.PENDING, 500, "answered 500", delay_ms=60_000)
DEAD = DeliveryOutcome(DeliveryState.DEAD, 500, "answered 500")
EVERYTHING = [event.value for event in WebhookEvent]


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_only_the_end_is_delivered_by_default(outbox: OutboxHarness, end: str) -> None:
    job = outbox.started(outbox.accepted())
    outbox.step(job, 1)
    getattr(outbox, end)(job)

    (webhook,) = outbox.claim()

    assert (webhook.event, webhook.id) == (end, f"{job.id}_{end}_1")
    assert webhook.snapshot().job.state == end


def test_the_end_of_a_job_that_never_started_is_delivered(outbox: OutboxHarness) -> None:
    outbox.cancelled(outbox.accepted())
    outbox.failed(outbox.accepted())

    assert [webhook.event for webhook in outbox.claim()] == ["cancelled", "failed"]


def test_failures_are_delivered_even_if_not_requested(outbox: OutboxHarness) -> None:
    outbox.failed(outbox.started(outbox.accepted(webhook_events=["succeeded"])))
    outbox.cancelled(outbox.started(outbox.accepted(webhook_events=["succeeded"])))

    assert [webhook.event for webhook in outbox.claim()] == ["failed"]


def test_a_job_without_a_receiver_creates_no_webhook(outbox: OutboxHarness) -> None:
    outbox.done(webhook_url=None)

    assert outbox.keys == set()


def test_a_delivered_webhook_leaves_only_its_state_in_the_job(outbox: OutboxHarness) -> None:
    job = outbox.done()
    (webhook,) = outbox.claim()
    assert outbox.deliveries(job)["succeeded"].state == "pending"

    outbox.settle(webhook, DELIVERED)

    delivery = outbox.deliveries(job)["succeeded"]
    assert (delivery.id, delivery.state, delivery.attempts, delivery.last_status) == (webhook.id, "delivered", 1, 204)
    assert delivery.next_attempt_at is None
    assert outbox.keys == set()
    assert outbox.claim() == ()


def test_each_start_is_delivered(outbox: OutboxHarness) -> None:
    job = outbox.started(outbox.accepted(webhook_events=["started"]))
    outbox.settle(outbox.claim()[0], DELIVERED)

    again = outbox.started(outbox.requeued(job))

    assert [webhook.id for webhook in outbox.claim()] == [f"{job.id}_started_{again.attempt}"]


def test_the_start_is_sent_before_the_end_when_both_are_pending(outbox: OutboxHarness) -> None:
    outbox.done(webhook_events=["started", "succeeded"])

    (start,) = outbox.claim()
    assert (start.event, outbox.claim()) == ("started", ())
    outbox.settle(start, LATER)

    # One attempt is enough: the end does not wait for a start that cannot be delivered.
    assert [webhook.event for webhook in outbox.claim()] == ["succeeded"]


def test_the_end_does_not_wait_for_a_start_whose_sender_died(outbox: OutboxHarness) -> None:
    job = outbox.done(webhook_events=["started", "succeeded"])
    outbox.claim()

    due = outbox.deliveries(job)["succeeded"].next_attempt_at

    assert due is not None
    assert 10 < due.timestamp() - time.time() <= 20


def test_newer_progress_replaces_unsent_progress(outbox: OutboxHarness) -> None:
    job = outbox.started(outbox.accepted(webhook_events=["progress"]))
    for step in (1, 2, 3):
        outbox.step(job, step)

    (webhook,) = outbox.claim()

    progress = webhook.snapshot().progress
    assert progress is not None
    assert progress.step == 3


def test_progress_is_delivered_at_most_once_a_second(outbox: OutboxHarness) -> None:
    job = outbox.started(outbox.accepted(webhook_events=["progress"]))
    outbox.step(job, 1)
    outbox.settle(outbox.claim()[0], DELIVERED)

    outbox.step(job, 2)
    assert outbox.claim() == ()

    outbox.store.client.hset(f"{outbox.prefix}job:{job.id}", "told_progress", round(time.time() * 1000) - 1100)
    outbox.step(job, 3)
    assert len(outbox.claim()) == 1


def test_the_end_replaces_unsent_progress(outbox: OutboxHarness) -> None:
    job = outbox.started(outbox.accepted(webhook_events=["progress", "succeeded"]))
    outbox.step(job, 1)
    outbox.succeeded(job)

    assert [webhook.event for webhook in outbox.claim()] == ["succeeded"]
    assert outbox.deliveries(job)["progress"].state == "dropped"


def test_webhooks_of_a_lost_sender_are_claimed_again_with_the_same_id(outbox: OutboxHarness) -> None:
    for _ in range(MAX_IN_FLIGHT_PER_QUEUE):
        outbox.done()
    first = outbox.claim()
    assert outbox.claim() == ()

    outbox.expire_waits(RECEIVER)

    again = outbox.claim()
    assert {(one.id, one.attempt, one.doc) for one in again} == {(one.id, 2, one.doc) for one in first}


def test_progress_that_is_being_sent_neither_changes_nor_is_overtaken(outbox: OutboxHarness) -> None:
    job = outbox.started(outbox.accepted(webhook_events=["progress", "succeeded"]))
    outbox.step(job, 1)
    (sent,) = outbox.claim()
    outbox.step(job, 2)
    outbox.succeeded(job)

    assert outbox.claim() == ()
    outbox.expire_waits(RECEIVER)
    again, end = outbox.claim()

    assert (again.id, again.progress, end.event) == (sent.id, sent.progress, "succeeded")


def test_an_attempt_that_ends_late_sends_nothing_twice(outbox: OutboxHarness) -> None:
    outbox.done(webhook_events=["started", "succeeded"])
    outbox.claim()
    outbox.expire_waits(RECEIVER)
    start, end = outbox.claim()

    outbox.settle(start, DELIVERED)

    assert outbox.claim() == ()
    outbox.settle(end, DELIVERED)
    assert outbox.keys == set()


def test_a_webhook_that_was_lost_blocks_no_other(outbox: OutboxHarness) -> None:
    lost, job = outbox.done(), outbox.done()
    outbox.store.client.delete(f"{outbox.prefix}webhooks:event:{lost.id}_succeeded_1")

    assert [webhook.job_id for webhook in outbox.claim()] == [job.id]


def test_a_late_sender_can_report_a_delivery_but_undo_nothing(outbox: OutboxHarness) -> None:
    job = outbox.done()
    (late,) = outbox.claim()
    outbox.expire_waits(RECEIVER)
    (current,) = outbox.claim()

    outbox.settle(late, DEAD)
    assert outbox.deliveries(job)["succeeded"].state == "pending"

    outbox.settle(late, DELIVERED)
    outbox.settle(current, LATER)
    outbox.settle(current, DELIVERED)
    assert outbox.deliveries(job)["succeeded"].state == "delivered"
    assert outbox.keys == set()


def test_webhooks_in_flight_per_receiver_are_limited_and_others_do_not_wait(outbox: OutboxHarness) -> None:
    for _ in range(20):
        outbox.done()
    outbox.done(webhook_url="http://127.0.0.1:8/")

    taken = outbox.claim()

    receivers = [webhook.receiver for webhook in taken]
    assert receivers.count(RECEIVER) == MAX_IN_FLIGHT_PER_QUEUE
    assert receivers.count("http://127.0.0.1:8") == 1
    outbox.settle(next(webhook for webhook in taken if webhook.receiver == RECEIVER), DELIVERED)
    assert len(outbox.claim()) == 1


def test_receivers_take_turns(outbox: OutboxHarness) -> None:
    for _ in range(4):
        outbox.done()
    outbox.done(webhook_url="http://127.0.0.1:8/")

    assert {outbox.claim(1)[0].receiver for _ in range(2)} == {RECEIVER, "http://127.0.0.1:8"}


def test_a_receiver_that_is_gone_gets_no_more_of_this_job(outbox: OutboxHarness) -> None:
    job = outbox.started(outbox.accepted(webhook_events=["started", "succeeded"]))
    outbox.settle(outbox.claim()[0], DeliveryOutcome(DeliveryState.DEAD, 410, "answered 410", gone=True))
    outbox.succeeded(job)
    outbox.done()

    assert [webhook.job_id == job.id for webhook in outbox.claim()] == [False]


def test_a_webhook_that_is_dropped_while_it_is_sent_leaves_nothing(outbox: OutboxHarness) -> None:
    outbox.done(webhook_events=["started", "succeeded"])
    outbox.claim()
    outbox.expire_waits(RECEIVER)
    start, end = outbox.claim()

    outbox.settle(start, DeliveryOutcome(DeliveryState.DROPPED, 410, "answered 410", gone=True))
    outbox.settle(end, LATER)

    assert outbox.keys == set()
