"""The threads that send webhooks outlive errors that pass."""

import threading
from pathlib import Path

import pytest

from shared.redis.store import connect
from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.receiver import Receiver
from tests.stack import valkey_server
from tests.support.polling import wait_until
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
