"""The threads that send webhooks outlive errors that pass."""

import threading
from pathlib import Path
from typing import Any

import pytest
import redis

from shared.errors import StoreUnavailable
from shared.redis.store import connect
from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.receiver import Receiver, hang
from tests.stack import valkey_server
from tests.support.failing_store import FailingStore
from tests.support.polling import wait_until, waits_for
from worker.housekeeper import webhook_dispatcher


def test_webhooks_are_sent_once_the_system_allows_threads_again(
    outbox: OutboxHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = threading.Thread.start, list[str]()

    def start_later(thread: threading.Thread) -> None:
        if thread.name.startswith("webhook-") and thread.name != "webhook-listener" and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)
    with outbox.sending(outbox.sender([receiver.origin])):
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: refused)

        # Its lease has expired.
        outbox.expire_waits(receiver.origin)

        assert receiver.next().message["data"]["id"] == job.id


def test_new_webhooks_are_noticed_after_an_unforeseen_error(
    outbox: OutboxHarness, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe, errors = outbox.news.pubsub, [ValueError("an answer that nobody expects")]

    def subscribe_later() -> object:
        if errors:
            raise errors.pop()
        return subscribe()

    monkeypatch.setattr(outbox.news, "pubsub", subscribe_later)
    with outbox.sending(outbox.sender([receiver.origin])):
        wait_until(lambda: not errors)
        job = outbox.done(webhook_url=receiver.url)

        assert receiver.next().message["data"]["id"] == job.id


def test_webhooks_are_sent_although_the_subscription_hears_of_none(
    outbox: OutboxHarness, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover, it may be to a server that is cut off from its successor."""
    monkeypatch.setattr(webhook_dispatcher, "LONGEST_WAIT_SECONDS", 0.1)
    with valkey_server(tmp_path) as former:
        outbox.news = connect(former)
        with outbox.sending(outbox.sender([receiver.origin])):
            for _ in range(3):
                job = outbox.done(webhook_url=receiver.url)

                assert receiver.next().message["data"]["id"] == job.id
                wait_until(lambda: outbox.keys == set())


def test_an_outage_of_the_store_is_logged_once(
    outbox: OutboxHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two lines a second would push everything else out of a log of limited size."""
    monkeypatch.setattr(webhook_dispatcher, "RECONNECT_SECONDS", 0.01)
    attempts = threading.Semaphore(0)

    class Away(redis.Redis):
        def pubsub(self, **_: object) -> Any:
            attempts.release()
            raise redis.exceptions.ConnectionError

    outbox.news = Away()
    with outbox.sending(outbox.sender([])):
        assert all(attempts.acquire(timeout=20) for _ in range(4))

    assert [message for message in caplog.messages if "subscription" in message] == [
        "the subscription to webhooks was lost (ConnectionError); resubscribing"
    ]


def test_a_webhook_is_sent_once_although_redis_is_away_before_and_after(
    outbox: OutboxHarness, receiver: Receiver, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FailingStore(redis_url, {f"webhooks/{name}": StoreUnavailable() for name in ("claim", "settle")})
    job = outbox.done(webhook_url=receiver.url)

    outbox.store = store
    with outbox.sending(outbox.sender([receiver.origin])):
        wait_until(lambda: not outbox.keys)

    assert store.errors == {}
    assert [arrival.message["data"]["id"] for arrival in receiver.arrivals] == [job.id]
    assert "error" not in caplog.text


def test_a_sender_that_stops_waits_for_the_webhooks_that_it_is_sending(
    outbox: OutboxHarness, receiver: Receiver
) -> None:
    released = threading.Event()
    receiver.behave = hang(released)
    job = outbox.done(webhook_url=receiver.url)
    sending = outbox.sending(outbox.sender([receiver.origin], total_seconds=60))
    sending.__enter__()
    wait_until(lambda: receiver.arrivals)

    assert waits_for(released, lambda: sending.__exit__(None, None, None))
    assert outbox.deliveries(job)["succeeded"].state == "delivered"
