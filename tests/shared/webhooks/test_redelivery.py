"""Listing webhooks and sending them again: in a real Valkey, without a sender."""

from shared.webhooks.deliveries import DeliveryState
from shared.webhooks.outbox import ListedState
from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.test_outbox import DEAD, DELIVERED, LATER


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


def test_a_pending_webhook_can_be_sent_now(outbox: OutboxHarness) -> None:
    job = outbox.done()
    outbox.settle(outbox.claim()[0], LATER)
    assert outbox.claim() == ()

    outbox.run(outbox.webhooks.redeliver(f"{job.id}_succeeded_1"))

    assert len(outbox.claim()) == 1
