"""What a real sender sends to receivers that behave well or badly."""

import base64
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import WebhookVerificationError

from shared.access.links import LinkSigner, link_secret
from shared.errors import StorageUnavailable
from shared.net.allowlist import parse_receiver_headers
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.loading import load
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from tests.shared.webhooks.harness import OutboxHarness
from tests.shared.webhooks.receiver import SECRET, Behaviour, Receiver, answer, endless, hang, receiving
from tests.support.polling import wait_until
from worker.housekeeper.app import create_webhook_sender
from worker.housekeeper.image_links import JobLinks
from worker.housekeeper.retry_policy import SCHEDULE

OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of good length").decode()


def test_messages_follow_standard_webhooks(outbox: OutboxHarness, receiver: Receiver) -> None:
    with outbox.sending(outbox.sender([receiver.origin])):
        job = outbox.succeeded(
            outbox.started(outbox.accepted(webhook_url=receiver.url, metadata={"order": 7})), b"an image"
        )
        arrival = receiver.next()

    arrival.verify()
    assert arrival.path == "/hooks/images?token=secret-of-the-caller"
    assert arrival.headers["content-type"] == "application/json"
    assert arrival.message["type"] == "job.succeeded"
    data = arrival.message["data"]
    assert (data["id"], data["state"], data["metadata"]) == (job.id, "succeeded", {"order": 7})
    assert data["images"][0]["url"] == f"http://images.example.com/api/jobs/{job.id}/images/0"
    assert data["images"][0]["b64_json"] is None
    assert abs(datetime.fromisoformat(arrival.message["timestamp"]).timestamp() - arrival.at) < 5
    assert "secret-of-the-caller" not in str(data)


def test_image_links_are_signed_if_the_job_has_an_owner(outbox: OutboxHarness, receiver: Receiver) -> None:
    with outbox.sending(outbox.sender([receiver.origin])):
        job = outbox.started(outbox.accepted("n8n", webhook_url=receiver.url))
        outbox.succeeded(job, b"an image")
        (image,) = receiver.next().message["data"]["images"]

    url, _, query = image["url"].partition("?")
    secret = outbox.run(link_secret(outbox.prefix, "another proposal"))
    signed = dict(part.split("=") for part in query.split("&"))
    assert LinkSigner(secret.encode(), 60).is_valid(url.removeprefix("http://images.example.com"), **signed)


def test_each_configured_secret_verifies_a_message_and_no_other(outbox: OutboxHarness, receiver: Receiver) -> None:
    with outbox.sending(outbox.sender([receiver.origin], f"{OTHER_SECRET}, {SECRET}")):
        outbox.done(webhook_url=receiver.url)
        arrival = receiver.next()

    arrival.verify(SECRET)
    arrival.verify(OTHER_SECRET)
    with pytest.raises(WebhookVerificationError):
        arrival.verify("whsec_" + base64.b64encode(b"of somebody else altogether").decode())


def test_without_a_secret_nothing_is_signed_and_the_log_says_so_once(
    outbox: OutboxHarness, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with outbox.sending(outbox.sender([receiver.origin], "")):
        for _ in range(2):
            outbox.done(webhook_url=receiver.url)
            assert "webhook-signature" not in receiver.next().headers

    assert caplog.text.count("SD_WEBHOOK_SECRET is empty") == 1


def test_the_operators_header_is_sent_to_the_operators_paths_only(outbox: OutboxHarness, receiver: Receiver) -> None:
    allow = [f"{receiver.origin}/webhook/images", receiver.origin]
    headers = parse_receiver_headers("X-Token: of the operator", allow)
    with receiving() as other, outbox.sending(outbox.sender([*allow, other.origin], operator_headers=headers)):
        outbox.done(webhook_url=f"{receiver.origin}/webhook/images/done?a=b")
        assert receiver.next().headers["x-token"] == "of the operator"

        for url in (f"{receiver.origin}/webhook/admin", f"{receiver.origin}/webhook/images/..%2fadmin"):
            outbox.done(webhook_url=url)
            assert "x-token" not in receiver.next().headers
        outbox.done(webhook_url=other.url)
        assert "x-token" not in other.next().headers


def test_the_log_warns_that_an_origin_without_a_path_receives_the_header(
    outbox: OutboxHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SD_WEBHOOK_HEADER", "X-Token: of-the-operator")
    for allow, warnings in (("http://n8n:5678", 1), ("http://n8n:5678/webhook-waiting", 0)):
        caplog.clear()
        monkeypatch.setenv("SD_WEBHOOK_ALLOW", allow)
        settings = load(HousekeeperSettings)

        create_webhook_sender(settings, outbox.images, JobLinks(settings, outbox.store))

        assert caplog.text.count("SD_WEBHOOK_HEADER goes to http://n8n:5678/webhook-waiting") == warnings
        assert "of-the-operator" not in caplog.text


def test_small_images_are_sent_inline_on_request(outbox: OutboxHarness, receiver: Receiver) -> None:
    small, large = b"s" * 400, b"l" * 700
    with outbox.sending(outbox.sender([receiver.origin], inline_max_bytes=1000)):
        for inline in (True, False):
            job = outbox.started(outbox.accepted(webhook_url=receiver.url, webhook_inline_images=inline))
            outbox.succeeded(job, small, large)
            images = receiver.next().message["data"]["images"]

            carried = [image["b64_json"] and base64.b64decode(image["b64_json"]) for image in images]
            assert carried == ([small, None] if inline else [None, None])
            assert all(image["url"] for image in images)


def test_a_webhook_goes_without_its_images_while_the_storage_is_away(
    outbox: OutboxHarness, receiver: Receiver, tmp_path: Path
) -> None:
    class Away(FolderStore):
        def read(self, _: str) -> bytes | None:
            raise StorageUnavailable

    outbox.images = ImageStore(Away(tmp_path))
    with outbox.sending(outbox.sender([receiver.origin])):
        job = outbox.started(outbox.accepted(webhook_url=receiver.url, webhook_inline_images=True))
        outbox.succeeded(job, b"an image")

        assert receiver.next().message["data"]["images"][0]["b64_json"] is None


def test_a_failed_webhook_is_sent_again_unchanged_with_the_same_id(outbox: OutboxHarness, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with outbox.sending(outbox.sender([receiver.origin]), schedule=[0.05] * 5):
        job = outbox.done(webhook_url=receiver.url)
        first = receiver.next()
        again = receiver.next()
        receiver.behave = answer(200)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].state == "delivered")

    for arrival in receiver.arrivals:
        arrival.verify()
    assert {(arrival.id, arrival.body) for arrival in receiver.arrivals} == {(first.id, first.body)}
    assert again.headers["webhook-signature"]
    assert outbox.deliveries(job)["succeeded"].attempts == len(receiver.arrivals)


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        (answer(500), 500, "answered 500"),
        (answer(404), 404, "answered 404"),
        (answer(302, location="http://127.0.0.1:1/"), 302, "answered with a redirect, which is not followed"),
        (endless(500), 500, "answered more than 64 KB"),
        (hang(threading.Event()), None, "did not answer completely in time"),
    ],
    ids=["500", "404", "redirect", "endless", "hanging"],
)
def test_an_error_response_is_recorded_and_retried_later(
    outbox: OutboxHarness, receiver: Receiver, behaviour: Behaviour, status: int | None, error: str
) -> None:
    receiver.behave = behaviour
    with outbox.sending(outbox.sender([receiver.origin], total_seconds=0.5), SCHEDULE):
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].attempts == 1)

    delivery = outbox.deliveries(job)["succeeded"]
    assert (delivery.state, delivery.last_status, delivery.last_error) == ("pending", status, error)
    assert delivery.last_attempt_at is not None
    assert delivery.next_attempt_at is not None
    assert SCHEDULE[0] <= (delivery.next_attempt_at - delivery.last_attempt_at).total_seconds() <= SCHEDULE[0] * 1.2
    assert len(receiver.arrivals) == 1


@pytest.mark.parametrize("behaviour", [endless(200), answer(204)], ids=["endless", "short"])
def test_a_successful_status_is_enough_whatever_follows(
    outbox: OutboxHarness, receiver: Receiver, behaviour: Behaviour
) -> None:
    receiver.behave = behaviour
    with outbox.sending(outbox.sender([receiver.origin])):
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].state == "delivered")

    assert len(receiver.arrivals) == 1


def test_a_host_that_now_resolves_to_a_private_address_is_not_contacted(
    outbox: OutboxHarness, receiver: Receiver
) -> None:
    with outbox.sending(outbox.sender([]), SCHEDULE):
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].attempts == 1)

    assert "SD_WEBHOOK_ALLOW" in str(outbox.deliveries(job)["succeeded"].last_error)
    assert receiver.arrivals == []


def test_a_hanging_receiver_delays_no_other(outbox: OutboxHarness, receiver: Receiver) -> None:
    released = threading.Event()
    receiver.behave = hang(released)
    with receiving() as other:
        # A webhook that waited for one that hangs would not come before the test ends.
        sender = outbox.sender([receiver.origin, other.origin], total_seconds=60)
        with outbox.sending(sender, threads=8):
            for _ in range(50):
                outbox.done(webhook_url=receiver.url)
            wait_until(lambda: len(receiver.arrivals) == 4)
            for _ in range(20):
                outbox.done(webhook_url=other.url)
            for _ in range(20):
                other.next()
            assert len(receiver.arrivals) == 4
            released.set()
            wait_until(lambda: len(receiver.arrivals) == 50)


def test_several_senders_share_the_work_and_send_nothing_twice(outbox: OutboxHarness, receiver: Receiver) -> None:
    sender = outbox.sender([receiver.origin])
    with outbox.sending(sender), outbox.sending(sender):
        jobs = [outbox.done(webhook_url=receiver.url) for _ in range(50)]
        wait_until(lambda: not outbox.keys)

    assert len(receiver.arrivals) == len({arrival.id for arrival in receiver.arrivals}) == len(jobs)


def test_a_sender_that_lost_redis_sends_what_was_added_meanwhile(outbox: OutboxHarness, receiver: Receiver) -> None:
    with outbox.sending(outbox.sender([receiver.origin])):
        outbox.done(webhook_url=receiver.url)
        receiver.next()
        listeners = outbox.store.client.client_list(_type="pubsub")
        # The newest belongs to this test.
        outbox.store.client.client_kill_filter(_id=max(listeners, key=lambda one: int(one["id"]))["id"])
        outbox.done(webhook_url=receiver.url)

        receiver.next()


def test_an_unreadable_webhook_stops_no_other(
    outbox: OutboxHarness, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    broken = outbox.done(webhook_url=receiver.url)
    outbox.store.client.hset(f"{outbox.prefix}webhooks:event:{broken.id}_succeeded_1", "doc", "{}")
    with outbox.sending(outbox.sender([receiver.origin]), schedule=[0.01]):
        whole = outbox.done(webhook_url=receiver.url)
        assert receiver.next().message["data"]["id"] == whole.id
        wait_until(lambda: outbox.deliveries(broken)["succeeded"].state == "dead")

    assert "could not be sent" in caplog.text


def test_the_log_names_receivers_without_their_secrets(
    outbox: OutboxHarness, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    allow = [f"{receiver.origin}/hooks"]
    sender = outbox.sender(allow, operator_headers=parse_receiver_headers("X-Token: of-the-operator", allow))
    with outbox.sending(sender, schedule=[0.01, 0.01]):
        job = outbox.done(webhook_url=receiver.url)
        receiver.next()
        receiver.behave = answer(500)
        job = outbox.done(webhook_url=receiver.url)
        wait_until(lambda: outbox.deliveries(job)["succeeded"].state == "dead")

    assert receiver.origin in caplog.text
    for secret in ("secret-of-the-caller", "/hooks/images", "of-the-operator", SECRET.removeprefix("whsec_")):
        assert secret not in caplog.text
        assert secret not in repr(sender)


def test_image_files_do_not_contain_the_webhook_url(tmp_path: Path) -> None:
    import numpy as np

    from shared.jobs.job import Job
    from shared.jobs.requests import GenerationRequest
    from shared.jobs.types import Backend
    from worker.images.encoder import Encoder
    from worker.images.values import RenderedImage

    request = GenerationRequest(prompt="x", webhook_url="https://example.com/hook?token=secret-of-the-caller")
    job = Job.new(request, Backend.NULL, datetime.now(UTC))

    encoded = Encoder("1").encode(RenderedImage(np.zeros((8, 8, 3), np.uint8), 1), job)

    assert b"webhook" not in encoded
