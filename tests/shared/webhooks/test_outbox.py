"""What is written down to be told, who takes it, and when: in a real Valkey, without anybody who sends."""

import time

import pytest

from shared.jobs.types import WebhookEvent
from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import (
    DEAD_RETENTION_MS,
    FAILURES_BEFORE_COOLDOWN,
    MAX_IN_FLIGHT_PER_QUEUE,
    DeliveryOutcome,
    ReceiverState,
)
from tests.shared.webhooks.office import URL, Office

RECEIVER = "http://127.0.0.1:9"
DELIVERED = DeliveryOutcome(DeliveryState.DELIVERED, 204)
LATER = DeliveryOutcome(DeliveryState.PENDING, 500, "answered 500", delay_ms=60_000)
UNREACHED = DeliveryOutcome(DeliveryState.PENDING, None, "could not be reached", receiver=ReceiverState.REFUSED)
DEAD = DeliveryOutcome(DeliveryState.DEAD, 500, "answered 500")
EVERYTHING = [event.value for event in WebhookEvent]


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_by_default_the_end_is_told_and_nothing_else(office: Office, end: str) -> None:
    job = office.started(office.accepted())
    office.step(job, 1)
    getattr(office, end)(job)

    (webhook,) = office.take()

    assert (webhook.event, webhook.id) == (end, f"{job.id}_{end}_1")
    assert webhook.snapshot().job.state == end


def test_a_job_that_never_started_tells_of_its_end(office: Office) -> None:
    office.cancelled(office.accepted())
    office.failed(office.accepted())

    assert [webhook.event for webhook in office.take()] == ["cancelled", "failed"]


def test_a_failure_is_told_to_those_who_did_not_ask(office: Office) -> None:
    office.failed(office.started(office.accepted(webhook_events=["succeeded"])))
    office.cancelled(office.started(office.accepted(webhook_events=["succeeded"])))

    assert [webhook.event for webhook in office.take()] == ["failed"]


def test_a_job_without_a_receiver_leaves_nothing(office: Office) -> None:
    office.done(webhook_url=None)

    assert office.keys == set()


def test_what_has_arrived_leaves_nothing_but_word_with_its_job(office: Office) -> None:
    job = office.done()
    (webhook,) = office.take()
    assert office.deliveries(job)["succeeded"].state == "pending"

    office.settle(webhook, DELIVERED)

    told = office.deliveries(job)["succeeded"]
    assert (told.id, told.state, told.attempts, told.last_status) == (webhook.id, "delivered", 1, 204)
    assert told.next_attempt_at is None
    assert office.keys == set()
    assert office.take() == ()


def test_each_start_is_told(office: Office) -> None:
    job = office.started(office.accepted(webhook_events=["started"]))
    office.settle(office.take()[0], DELIVERED)

    again = office.started(office.requeued(job))

    assert [webhook.id for webhook in office.take()] == [f"{job.id}_started_{again.attempt}"]


def test_the_start_goes_before_the_end_also_when_both_wait(office: Office) -> None:
    office.done(webhook_events=["started", "succeeded"])

    (start,) = office.take()
    assert (start.event, office.take()) == ("started", ())
    office.settle(start, LATER)

    # Tried once is enough: the end does not wait for a start that cannot be delivered.
    assert [webhook.event for webhook in office.take()] == ["succeeded"]


def test_the_end_does_not_wait_for_a_start_whose_sender_died(office: Office) -> None:
    job = office.done(webhook_events=["started", "succeeded"])
    office.take()

    due = office.deliveries(job)["succeeded"].next_attempt_at

    assert due is not None
    assert 10 < due.timestamp() - time.time() <= 20


def test_of_progress_that_has_not_gone_out_the_newest_counts(office: Office) -> None:
    job = office.started(office.accepted(webhook_events=["progress"]))
    for step in (1, 2, 3):
        office.step(job, step)

    (webhook,) = office.take()

    progress = webhook.snapshot().progress
    assert progress is not None
    assert progress.step == 3


def test_progress_is_told_once_a_second_at_most(office: Office) -> None:
    job = office.started(office.accepted(webhook_events=["progress"]))
    office.step(job, 1)
    office.settle(office.take()[0], DELIVERED)

    office.step(job, 2)
    assert office.take() == ()

    office.store.client.hset(f"{office.prefix}job:{job.id}", "told_progress", round(time.time() * 1000) - 1100)
    office.step(job, 3)
    assert len(office.take()) == 1


def test_the_end_takes_the_place_of_progress_that_has_not_gone_out(office: Office) -> None:
    job = office.started(office.accepted(webhook_events=["progress", "succeeded"]))
    office.step(job, 1)
    office.succeeded(job)

    assert [webhook.event for webhook in office.take()] == ["succeeded"]
    assert office.deliveries(job)["progress"].state == "dropped"


def test_what_a_dead_sender_had_taken_is_taken_by_another_under_the_same_id(office: Office) -> None:
    office.done()
    (first,) = office.take()
    assert office.take() == ()

    office.lapse(RECEIVER)

    (again,) = office.take()
    assert (again.id, again.attempt, again.doc) == (first.id, 2, first.doc)


def test_who_comes_late_cannot_undo_but_can_say_that_it_arrived(office: Office) -> None:
    job = office.done()
    (late,) = office.take()
    office.lapse(RECEIVER)
    (current,) = office.take()

    office.settle(late, DEAD)
    assert office.deliveries(job)["succeeded"].state == "pending"

    office.settle(late, DELIVERED)
    office.settle(current, LATER)
    assert office.deliveries(job)["succeeded"].state == "delivered"
    assert office.keys == set()


def test_one_receiver_gets_only_so_many_at_a_time_and_others_are_not_kept_waiting(office: Office) -> None:
    for _ in range(20):
        office.done()
    office.done(webhook_url="http://127.0.0.1:8/")

    taken = office.take()

    receivers = [webhook.receiver for webhook in taken]
    assert receivers.count(RECEIVER) == MAX_IN_FLIGHT_PER_QUEUE
    assert receivers.count("http://127.0.0.1:8") == 1
    office.settle(next(webhook for webhook in taken if webhook.receiver == RECEIVER), DELIVERED)
    assert len(office.take()) == 1


def test_receivers_take_turns(office: Office) -> None:
    for _ in range(4):
        office.done()
    office.done(webhook_url="http://127.0.0.1:8/")

    assert {office.take(1)[0].receiver for _ in range(2)} == {RECEIVER, "http://127.0.0.1:8"}


def test_a_receiver_that_cannot_be_reached_is_left_alone_and_then_tried_with_one(office: Office) -> None:
    for _ in range(10):
        office.done()
    for webhook in office.take():
        office.settle(webhook, UNREACHED)
    (single,) = office.take()
    assert FAILURES_BEFORE_COOLDOWN == MAX_IN_FLIGHT_PER_QUEUE + 1
    office.settle(single, UNREACHED)

    assert office.take() == ()
    wait = office.run(office.webhooks.claim(1)).next_due_ms
    assert 9_000 < wait <= 10_000

    office.lapse(RECEIVER)
    (trial,) = office.take()
    office.settle(trial, DELIVERED)
    assert len(office.take()) == MAX_IN_FLIGHT_PER_QUEUE


def test_a_receiver_that_answers_badly_is_there(office: Office) -> None:
    for _ in range(10):
        office.done()
    for _ in range(2):
        for webhook in office.take():
            office.settle(webhook, LATER)

    assert len(office.take()) == 2


def test_one_that_is_gone_is_told_no_more_of_this_job(office: Office) -> None:
    job = office.started(office.accepted(webhook_events=["started", "succeeded"]))
    office.settle(office.take()[0], DeliveryOutcome(DeliveryState.DEAD, 410, "answered 410", gone=True))
    office.succeeded(job)
    office.done()

    assert [webhook.job_id == job.id for webhook in office.take()] == [False]


def test_what_was_given_up_is_listed_and_lapses(office: Office) -> None:
    jobs = [office.done() for _ in range(3)]
    for webhook in office.take():
        office.settle(webhook, DEAD)

    first = office.run(office.webhooks.list_page(DeliveryState.DEAD, 2, None))
    rest = office.run(office.webhooks.list_page(DeliveryState.DEAD, 2, first.cursor))

    listed = [*first.webhooks, *rest.webhooks]
    assert [webhook.job_id for webhook in listed] == [job.id for job in reversed(jobs)]
    assert {webhook.url for webhook in listed} == {URL.partition("?")[0]}
    assert listed[0].delivery == office.deliveries(jobs[2])["succeeded"]
    client, begin = office.store.client, f"{office.prefix}webhooks:"
    assert office.keys == {"dead", "dead:"} | {f"event:{webhook.delivery.id}" for webhook in listed}
    assert all(0 < client.pttl(begin + key) <= DEAD_RETENTION_MS for key in office.keys)


def test_of_what_was_given_up_the_oldest_goes_when_there_is_too_much(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.webhooks.outbox.MAX_DEAD_PER_OWNER", 2)
    jobs = [office.done() for _ in range(4)]
    for webhook in office.take():
        office.settle(webhook, DEAD)

    page = office.run(office.webhooks.list_page(DeliveryState.DEAD, 10, None))

    assert [webhook.job_id for webhook in page.webhooks] == [jobs[3].id, jobs[2].id]
    assert len(office.keys) == 4


def test_what_was_given_up_can_be_sent_again_also_when_its_job_is_forgotten(office: Office) -> None:
    job = office.done()
    (dead,) = office.take()
    office.settle(dead, DEAD)
    assert office.take() == ()
    office.store.client.delete(f"{office.prefix}job:{job.id}")

    listing = office.run(office.webhooks.redeliver(dead.id))

    assert (listing.job_id, listing.delivery.state, listing.delivery.attempts) == (job.id, "pending", 0)
    (again,) = office.take()
    assert (again.id, again.attempt, again.doc) == (dead.id, 1, dead.doc)
    office.settle(again, DELIVERED)
    assert office.keys == set()
    assert office.store.client.exists(f"{office.prefix}job:{job.id}") == 0


def test_what_has_arrived_or_never_was_cannot_be_sent_again(office: Office) -> None:
    office.done()
    (webhook,) = office.take()
    office.settle(webhook, DELIVERED)

    assert office.run(office.webhooks.redeliver(webhook.id)) is None
    assert office.run(office.webhooks.redeliver("unknown")) is None


def test_an_owner_sees_and_sends_its_own_alone(office: Office) -> None:
    jobs = {owner: office.succeeded(office.started(office.accepted(owner))) for owner in ("dify", "n8n")}
    taken = {webhook.job_id: webhook for webhook in office.take()}
    own, foreign = taken[jobs["n8n"].id], taken[jobs["dify"].id]

    def listed(state: DeliveryState, owner: str | None) -> list[str]:
        return [one.job_id for one in office.run(office.webhooks.list_page(state, 10, None, owner)).webhooks]

    assert listed(DeliveryState.PENDING, "n8n") == [own.job_id]
    for webhook in (own, foreign):
        office.settle(webhook, DEAD)
    assert listed(DeliveryState.PENDING, "n8n") == []
    assert listed(DeliveryState.DEAD, "n8n") == [own.job_id]
    assert listed(DeliveryState.DEAD, None) == [own.job_id, foreign.job_id]
    assert office.run(office.webhooks.redeliver(foreign.id, "n8n")) is None
    assert office.run(office.webhooks.redeliver(own.id, "n8n")).job_id == own.job_id
    assert office.run(office.webhooks.redeliver(foreign.id)).job_id == foreign.job_id
    for webhook in office.take():
        office.settle(webhook, DELIVERED)
    assert office.keys == set()


def test_what_waits_can_be_sent_now(office: Office) -> None:
    job = office.done()
    office.settle(office.take()[0], LATER)
    assert office.take() == ()

    office.run(office.webhooks.redeliver(f"{job.id}_succeeded_1"))

    assert len(office.take()) == 1
