"""Receivers that refuse webhooks or cannot be reached are left alone for a time, then tried with one webhook."""

import pytest

from shared.webhooks.outbox import (
    FAILURES_BEFORE_COOLDOWN,
    MAX_COOLDOWN_MS,
    MAX_IN_FLIGHT_PER_QUEUE,
    DeliveryOutcome,
    ReceiverState,
)
from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.test_fairness import AWAY, DELIVERED, ORIGIN, REFUSED, done, owner_of
from tests.shared.webhooks.test_outbox import LATER
from worker.housekeeper.webhook_sender import HttpResult


def test_a_receiver_that_refuses_is_skipped_and_then_tried_with_one_webhook(outbox: OutboxHarness) -> None:
    for _ in range(10):
        outbox.done()
    for webhook in outbox.claim():
        outbox.settle(webhook, REFUSED)
    (single,) = outbox.claim()
    assert FAILURES_BEFORE_COOLDOWN == MAX_IN_FLIGHT_PER_QUEUE + 1
    outbox.settle(single, REFUSED)

    assert outbox.claim() == ()
    wait = outbox.run(outbox.webhooks.claim(1)).next_due_ms
    assert 5_000 < wait <= 10_000

    outbox.expire_waits(ORIGIN)
    (trial,) = outbox.claim()
    outbox.settle(trial, DELIVERED)
    assert len(outbox.claim()) == MAX_IN_FLIGHT_PER_QUEUE


@pytest.mark.parametrize("failure", [REFUSED, AWAY], ids=["refuses", "is away"])
def test_a_receiver_that_never_accepts_is_tried_every_few_minutes_and_forgotten_in_time(
    outbox: OutboxHarness, failure: DeliveryOutcome
) -> None:
    outbox.done()
    for _ in range(FAILURES_BEFORE_COOLDOWN + 8):
        outbox.settle(outbox.claim()[0], failure)
        wait = outbox.run(outbox.webhooks.claim(1)).next_due_ms
        outbox.expire_waits(ORIGIN)

    assert MAX_COOLDOWN_MS - 5_000 < wait <= MAX_COOLDOWN_MS
    client, begin = outbox.store.client, f"{outbox.prefix}webhooks:"
    (health,) = (*client.scan_iter(f"{begin}health:*"), *client.scan_iter(f"{begin}down:*"))
    assert client.pttl(health) > 0


def test_a_receiver_that_answers_with_an_error_is_not_skipped(outbox: OutboxHarness) -> None:
    for _ in range(10):
        outbox.done()
    for _ in range(2):
        for webhook in outbox.claim():
            outbox.settle(webhook, LATER)

    assert len(outbox.claim()) == 2


@pytest.mark.parametrize(
    ("result", "state"),
    [
        *((HttpResult(status), ReceiverState.REFUSED) for status in (None, 429, 502, 503, 504)),
        *((HttpResult(status), ReceiverState.ANSWERED) for status in (200, 302, 400, 404, 410, 500)),
        (HttpResult(connected=False), ReceiverState.UNREACHABLE),
    ],
)
def test_only_a_receiver_that_can_take_nothing_now_is_left_alone(result: HttpResult, state: ReceiverState) -> None:
    assert result.receiver_state is state


def test_a_path_that_refuses_one_owner_stays_open_for_others(outbox: OutboxHarness) -> None:
    done(outbox, "bad", 10)
    done(outbox, "good", 10)
    for _ in range(FAILURES_BEFORE_COOLDOWN):
        for webhook in outbox.claim():
            outbox.settle(webhook, REFUSED if owner_of(webhook) == "bad" else DELIVERED)

    done(outbox, "bad")
    done(outbox, "good", 2)
    assert {owner_of(webhook) for webhook in outbox.claim()} == {"good"}


def test_an_unreachable_origin_is_tried_once_for_all_owners(outbox: OutboxHarness) -> None:
    owners = [f"owner{number}" for number in range(8)]
    for owner in owners:
        done(outbox, owner, 2)
    for webhook in outbox.claim(FAILURES_BEFORE_COOLDOWN):
        outbox.settle(webhook, AWAY)

    assert outbox.claim() == ()
    wait = outbox.run(outbox.webhooks.claim(1)).next_due_ms
    assert 5_000 < wait <= 10_000

    for owner in owners:
        outbox.expire_waits(f"{ORIGIN} {owner}")
    (trial,) = outbox.claim()
    assert outbox.claim() == ()
    assert outbox.run(outbox.webhooks.claim(1)).next_due_ms <= 500
    outbox.settle(trial, DELIVERED)
    for owner in owners:
        outbox.expire_waits(f"{ORIGIN} {owner}")
    assert {owner_of(webhook) for webhook in outbox.claim()} == set(owners)


def test_an_unreachable_origin_is_tried_with_one_webhook_after_the_other_until_it_is_skipped(
    outbox: OutboxHarness,
) -> None:
    done(outbox, "n8n", 6)
    outbox.settle(outbox.claim(1)[0], AWAY)

    for _ in range(FAILURES_BEFORE_COOLDOWN - 1):
        (trial,) = outbox.claim()
        outbox.settle(trial, AWAY)

    assert outbox.claim() == ()


def test_a_trial_whose_sender_died_is_repeated(outbox: OutboxHarness) -> None:
    done(outbox, "n8n", 6)
    for webhook in outbox.claim(1):
        outbox.settle(webhook, AWAY)
    (lost,) = outbox.claim()
    assert outbox.claim() == ()

    outbox.expire_waits(lost.queue)

    assert len(outbox.claim()) == 1
