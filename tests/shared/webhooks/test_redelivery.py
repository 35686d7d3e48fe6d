"""Listing webhooks and sending them again: in a real Valkey, without a sender."""

import pytest

from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import DEAD_RETENTION_MS, DeliveryOutcome, ListedState
from tests.shared.webhooks.harness import URL, OutboxHarness
from tests.shared.webhooks.test_fairness import AWAY, REFUSED
from tests.shared.webhooks.test_outbox import DEAD, DELIVERED, LATER


def test_dead_webhooks_that_have_expired_are_not_counted(outbox: OutboxHarness) -> None:
    for owner in ("dify", "n8n"):
        outbox.succeeded(outbox.started(outbox.accepted(owner)))
        (webhook,) = outbox.claim()
        outbox.settle(webhook, DEAD)
        outbox.store.client.delete(f"{outbox.prefix}webhooks:event:{webhook.id}")

    outbox.succeeded(outbox.started(outbox.accepted("n8n")))
    (last,) = outbox.claim()
    outbox.settle(last, DEAD)

    for index in ("dead", "dead:n8n"):
        assert outbox.store.client.zrange(f"{outbox.prefix}webhooks:{index}", 0, -1) == [last.id]


def test_dead_webhooks_are_listed_and_expire(outbox: OutboxHarness) -> None:
    jobs = [outbox.done() for _ in range(3)]
    for webhook in outbox.claim():
        outbox.settle(webhook, DEAD)

    first = outbox.run(outbox.webhooks.list_page(DeliveryState.DEAD, 2, None))
    rest = outbox.run(outbox.webhooks.list_page(DeliveryState.DEAD, 2, first.cursor))

    listed = [*first.webhooks, *rest.webhooks]
    assert [webhook.job_id for webhook in listed] == [job.id for job in reversed(jobs)]
    assert {webhook.url for webhook in listed} == {URL.partition("?")[0]}
    assert outbox.deliveries(jobs[2])["succeeded"].model_dump().items() <= listed[0].model_dump().items()
    client, begin = outbox.store.client, f"{outbox.prefix}webhooks:"
    assert outbox.keys == {"dead", "dead:"} | {f"event:{webhook.id}" for webhook in listed}
    assert all(0 < client.pttl(begin + key) <= DEAD_RETENTION_MS for key in outbox.keys)


def test_the_oldest_dead_webhooks_are_deleted_beyond_a_limit(
    outbox: OutboxHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.webhooks.outbox.MAX_DEAD_PER_OWNER", 2)
    jobs = [outbox.done() for _ in range(4)]
    for webhook in outbox.claim():
        outbox.settle(webhook, DEAD)

    page = outbox.run(outbox.webhooks.list_page(DeliveryState.DEAD, 10, None))

    assert [webhook.job_id for webhook in page.webhooks] == [jobs[3].id, jobs[2].id]
    assert len(outbox.keys) == 4


def test_a_dead_webhook_can_be_redelivered_after_its_job_was_deleted(outbox: OutboxHarness) -> None:
    job = outbox.done()
    (dead,) = outbox.claim()
    outbox.settle(dead, DEAD)
    assert outbox.claim() == ()
    outbox.store.client.delete(f"{outbox.prefix}job:{job.id}")

    listing = outbox.run(outbox.webhooks.redeliver(dead.id))

    assert (listing.job_id, listing.state, listing.attempts) == (job.id, "pending", 0)
    (again,) = outbox.claim()
    assert (again.id, again.attempt, again.doc) == (dead.id, 1, dead.doc)
    assert outbox.store.client.pttl(f"{outbox.prefix}webhooks:event:{dead.id}") == -1
    outbox.settle(again, DELIVERED)
    assert outbox.keys == set()
    assert outbox.store.client.exists(f"{outbox.prefix}job:{job.id}") == 0


def test_delivered_and_unknown_webhooks_cannot_be_redelivered(outbox: OutboxHarness) -> None:
    outbox.done()
    (webhook,) = outbox.claim()
    outbox.settle(webhook, DELIVERED)

    assert outbox.run(outbox.webhooks.redeliver(webhook.id)) is None
    assert outbox.run(outbox.webhooks.redeliver("unknown")) is None


def test_an_owner_lists_and_redelivers_only_its_webhooks(outbox: OutboxHarness) -> None:
    jobs = {owner: outbox.succeeded(outbox.started(outbox.accepted(owner))) for owner in ("dify", "n8n")}
    taken = {webhook.job_id: webhook for webhook in outbox.claim()}
    for_n8n, for_dify = taken[jobs["n8n"].id], taken[jobs["dify"].id]

    def listed(state: ListedState, owner: str | None) -> list[str]:
        return [one.job_id for one in outbox.run(outbox.webhooks.list_page(state, 10, None, owner)).webhooks]

    assert listed(DeliveryState.PENDING, "n8n") == [for_n8n.job_id]
    for webhook in (for_n8n, for_dify):
        outbox.settle(webhook, DEAD)
    assert listed(DeliveryState.PENDING, "n8n") == []
    assert listed(DeliveryState.DEAD, "n8n") == [for_n8n.job_id]
    assert listed(DeliveryState.DEAD, None) == [for_n8n.job_id, for_dify.job_id]
    assert outbox.run(outbox.webhooks.redeliver(for_dify.id, "n8n")) is None
    assert outbox.run(outbox.webhooks.redeliver(for_n8n.id, "n8n")).job_id == for_n8n.job_id
    assert outbox.run(outbox.webhooks.redeliver(for_dify.id)).job_id == for_dify.job_id
    for webhook in outbox.claim():
        outbox.settle(webhook, DELIVERED)
    assert outbox.keys == set()


@pytest.mark.parametrize("failure", [LATER, REFUSED, AWAY], ids=["error", "refuses", "is away"])
def test_a_pending_webhook_can_be_sent_now(outbox: OutboxHarness, failure: DeliveryOutcome) -> None:
    job = outbox.done()
    while claimed := outbox.claim():
        outbox.settle(claimed[0], failure)

    outbox.run(outbox.webhooks.redeliver(f"{job.id}_succeeded_1"))

    assert len(outbox.claim()) == 1


def test_a_webhook_that_is_being_sent_is_not_sent_twice(outbox: OutboxHarness) -> None:
    outbox.done()
    (webhook,) = outbox.claim()

    listed = outbox.run(outbox.webhooks.redeliver(webhook.id))

    assert listed.attempts == 1
    assert outbox.claim() == ()
