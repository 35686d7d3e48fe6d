"""Retries, cooldowns and final states: a real sender, and receivers that reject what they get."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trustme

from shared.jobs.housekeeping import JobHousekeeping
from shared.net.egress_proxy import EgressProxy
from tests.shared.outbound.proxies import connect_proxy
from tests.shared.outbound.servers import Script, redirect, serve
from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.receiver import Receiver, answer, receiving, tomorrow
from tests.support.polling import wait_until
from worker.housekeeper import webhook_dispatcher
from worker.housekeeper.retry_policy import SCHEDULE, RetryPolicy
from worker.housekeeper.webhook_sender import HttpResult


def test_a_refused_connection_is_retried_later(outbox: OutboxHarness) -> None:
    with receiving() as receiver:
        pass
    with outbox.sending(outbox.sender([receiver.origin]), SCHEDULE):
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].attempts == 1)

    assert outbox.deliveries(job)["succeeded"].last_error == "could not be reached: the server refuses connections"
    # Other owners do not wait for it, either.
    assert outbox.store.client.hget(f"{outbox.prefix}webhooks:down:{receiver.origin}", "failures") == "1"


def test_webhooks_pass_through_the_proxy_and_record_its_refusal(outbox: OutboxHarness, receiver: Receiver) -> None:
    with connect_proxy() as proxy, outbox.sending(outbox.sender([], proxy=EgressProxy.parse(proxy.url)), SCHEDULE):
        proxy.ports["hooks.example.com:80"] = int(receiver.origin.rpartition(":")[2])
        outbox.done(webhook_url="http://hooks.example.com/hook")
        receiver.next().verify()

        refused = outbox.done(webhook_url="https://elsewhere.example.com/hook")
        wait_until(lambda: outbox.deliveries(refused)["succeeded"].attempts == 1)

    error = outbox.deliveries(refused)["succeeded"].last_error
    assert error == "could not be reached: the egress proxy refused to connect (HTTP 502)"


@pytest.mark.parametrize("form", ["seconds", "date", "date by another clock", "too long", "nonsense"])
def test_retry_after_is_respected_within_bounds(outbox: OutboxHarness, receiver: Receiver, form: str) -> None:
    retry_after, expected = {
        "seconds": ("120", 120.0),
        "date": (format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True), 119.0),
        "date by another clock": (
            format_datetime(datetime.now(UTC) + timedelta(days=1, seconds=120), usegmt=True),
            119.0,
        ),
        "too long": ("999999", 3600.0),
        "nonsense": ("soon", SCHEDULE[0]),
    }[form]
    busy = answer(429, retry_after=retry_after)
    receiver.behave = tomorrow(busy) if form == "date by another clock" else busy
    with outbox.sending(outbox.sender([receiver.origin]), SCHEDULE):
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].attempts == 1)

    delivery = outbox.deliveries(job)["succeeded"]
    assert delivery.next_attempt_at is not None
    assert delivery.last_attempt_at is not None
    assert expected - 3 <= (delivery.next_attempt_at - delivery.last_attempt_at).total_seconds() <= expected + 3


def test_webhooks_that_failed_together_are_not_retried_together(outbox: OutboxHarness) -> None:
    outbox.done()
    (webhook,) = outbox.claim()

    assert len({RetryPolicy().outcome(webhook, HttpResult(500)).delay_ms for _ in range(10)}) > 1


def test_retries_follow_the_clock_of_redis_and_timestamps_that_of_the_sender(
    outbox: OutboxHarness, receiver: Receiver
) -> None:
    receiver.behave = answer(500)
    ahead = timedelta(days=1)
    with outbox.sending(outbox.sender([receiver.origin], now=lambda: datetime.now(UTC) + ahead), SCHEDULE):
        job = outbox.done(webhook_url=receiver.url)
        stamp = int(receiver.next().headers["webhook-timestamp"])
        wait_until(lambda: outbox.deliveries(job)["succeeded"].attempts == 1)

    delivery, (seconds, _) = outbox.deliveries(job)["succeeded"], outbox.store.client.time()
    assert delivery.last_attempt_at is not None
    assert delivery.next_attempt_at is not None
    assert abs(stamp - ahead.total_seconds() - seconds) < 5
    assert abs(delivery.last_attempt_at.timestamp() - seconds) < 5
    assert SCHEDULE[0] <= (delivery.next_attempt_at - delivery.last_attempt_at).total_seconds() <= SCHEDULE[0] * 1.2


def test_410_drops_all_pending_webhooks_of_the_job(outbox: OutboxHarness, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with outbox.sending(outbox.sender([receiver.origin]), SCHEDULE):
        job = outbox.started(outbox.accepted(webhook_url=receiver.url, webhook_events=["started", "succeeded"]))
        wait_until(lambda: outbox.deliveries(job)["started"].attempts == 1)
        receiver.behave = answer(410)
        outbox.succeeded(job)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].state == "dead")

    assert outbox.deliveries(job)["started"].state == "dropped"
    assert outbox.deliveries(job)["started"].last_error == "its receiver wants no more events of this job"
    assert receiver.types == ["started", "succeeded"]
    assert outbox.keys == {"dead", "dead:", f"event:{job.id}_succeeded_1"}


def test_a_pending_webhook_is_delivered_after_its_job_was_deleted(outbox: OutboxHarness, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with outbox.sending(outbox.sender([receiver.origin]), schedule=[0.2] * 9):
        job = outbox.succeeded(
            outbox.started(outbox.accepted("n8n", webhook_url=receiver.url, webhook_inline_images=True)), b"an image"
        )
        receiver.next()
        assert outbox.run(JobHousekeeping(outbox.prefix).delete_job(job.id))
        outbox.images.discard(job, [0])
        receiver.behave = answer(204)
        wait_until(lambda: not outbox.keys)

    data = receiver.arrivals[-1].message["data"]
    assert (data["id"], data["state"], data["images"][0]["b64_json"]) == (job.id, "succeeded", None)
    assert not list(outbox.store.client.scan_iter(f"{outbox.prefix}job:*"))


@pytest.mark.parametrize("kind", ["certificate", "no TLS", "redirect"])
def test_a_webhook_that_can_never_be_delivered_is_dead_with_a_reason(outbox: OutboxHarness, kind: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    act = redirect("http://127.0.0.1:1/")
    script = Script(act, tls=tls if kind == "certificate" else None, reads_request=kind != "no TLS")
    with serve(script) as server:
        origin = f"{'http' if kind == 'redirect' else 'https'}://127.0.0.1:{server.port}"
        with outbox.sending(outbox.sender([origin]), schedule=[0.01]):
            job = outbox.done(webhook_url=f"{origin}/hook")
            wait_until(lambda: outbox.deliveries(job)["succeeded"].state == "dead")

    delivery = outbox.deliveries(job)["succeeded"]
    unsafe = (
        "could not be reached: the TLS handshake failed: the certificate is untrusted, invalid or for another host, or "
        "there is none"
    )
    expected = "answered with a redirect, which is not followed" if kind == "redirect" else unsafe
    assert (delivery.attempts, delivery.last_error, delivery.next_attempt_at) == (2, expected, None)


def test_410_makes_a_webhook_dead_at_once(outbox: OutboxHarness, receiver: Receiver) -> None:
    receiver.behave = answer(410)
    with outbox.sending(outbox.sender([receiver.origin])):
        job = outbox.started(outbox.accepted(webhook_url=receiver.url, webhook_events=["started", "succeeded"]))
        wait_until(lambda: outbox.deliveries(job)["started"].state == "dead")
        outbox.succeeded(job)

    assert "succeeded" not in outbox.deliveries(job)
    assert receiver.types == ["started"]


def test_a_webhook_is_dead_after_the_last_retry_and_can_be_redelivered_at_once(
    outbox: OutboxHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_dispatcher, "LONGEST_WAIT_SECONDS", 1000)
    receiver.behave = answer(503)
    with outbox.sending(outbox.sender([receiver.origin]), schedule=[0.02, 0.02]):
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].state == "dead")
        assert len(receiver.arrivals) == 3
        receiver.behave = answer(200)
        outbox.run(outbox.webhooks.redeliver(receiver.arrivals[0].id))
        wait_until(lambda: outbox.deliveries(job)["succeeded"].state == "delivered")

    assert len({arrival.id for arrival in receiver.arrivals}) == 1
    assert outbox.keys == set()


def test_failed_progress_is_not_retried(outbox: OutboxHarness, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with outbox.sending(outbox.sender([receiver.origin])):
        job = outbox.started(outbox.accepted(webhook_url=receiver.url, webhook_events=["progress"]))
        outbox.step(job, 1)
        wait_until(lambda: outbox.deliveries(job)["progress"].state == "dropped")

    assert outbox.keys == set()
