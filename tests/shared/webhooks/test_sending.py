"""What is sent, and what comes of it: a real sender, and receivers of every character."""

import base64
import logging
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks import WebhookVerificationError

from shared.access.links import LinkSigner, link_secret
from shared.net.allowlist import parse_receiver_headers
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.loading import load
from tests.polling import wait_until
from tests.shared.webhooks.office import Office
from tests.shared.webhooks.receiver import SECRET, Behaviour, Receiver, answer, endless, hang, receiving
from worker.housekeeper.app import create_webhook_sender
from worker.housekeeper.image_links import JobLinks
from worker.housekeeper.retry_policy import SCHEDULE

OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of good length").decode()


def test_what_is_sent_is_the_job_in_the_form_of_standard_webhooks(office: Office, receiver: Receiver) -> None:
    with office.sending(office.courier([receiver.origin])):
        job = office.succeeded(
            office.started(office.accepted(webhook_url=receiver.url, metadata={"order": 7})), b"an image"
        )
        arrival = receiver.next()

    arrival.verify()
    assert arrival.path == "/hooks/images?token=secret-of-the-caller"
    assert arrival.headers["content-type"] == "application/json"
    assert arrival.message["type"] == "job.succeeded"
    told = arrival.message["data"]
    assert (told["id"], told["state"], told["metadata"]) == (job.id, "succeeded", {"order": 7})
    assert told["images"][0]["url"] == f"http://images.example.com/api/jobs/{job.id}/images/0"
    assert told["images"][0]["b64_json"] is None
    assert abs(datetime.fromisoformat(arrival.message["timestamp"]).timestamp() - arrival.at) < 5
    assert "secret-of-the-caller" not in str(told)


def test_links_to_images_of_a_job_that_came_with_a_key_are_signed(office: Office, receiver: Receiver) -> None:
    with office.sending(office.courier([receiver.origin])):
        job = office.started(office.accepted("n8n", webhook_url=receiver.url))
        office.succeeded(job, b"an image")
        (image,) = receiver.next().message["data"]["images"]

    url, _, query = image["url"].partition("?")
    secret = office.run(link_secret(office.prefix, "another proposal"))
    signed = dict(part.split("=") for part in query.split("&"))
    assert LinkSigner(secret.encode(), 60).is_valid(url.removeprefix("http://images.example.com"), **signed)


def test_each_of_several_secrets_verifies_and_no_other(office: Office, receiver: Receiver) -> None:
    with office.sending(office.courier([receiver.origin], f"{OTHER_SECRET}, {SECRET}")):
        office.done(webhook_url=receiver.url)
        arrival = receiver.next()

    arrival.verify(SECRET)
    arrival.verify(OTHER_SECRET)
    with pytest.raises(WebhookVerificationError):
        arrival.verify("whsec_" + base64.b64encode(b"of somebody else altogether").decode())


def test_without_a_secret_nothing_is_signed_and_the_log_says_so_once(
    office: Office, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with office.sending(office.courier([receiver.origin], "")):
        for _ in range(2):
            office.done(webhook_url=receiver.url)
            assert "webhook-signature" not in receiver.next().headers

    assert caplog.text.count("SD_WEBHOOK_SECRET is empty") == 1


def test_the_operators_header_goes_below_the_operators_paths_alone(office: Office, receiver: Receiver) -> None:
    allow = [f"{receiver.origin}/webhook/images", receiver.origin]
    headers = parse_receiver_headers("X-Token: of the operator", allow)
    with receiving() as other, office.sending(office.courier([*allow, other.origin], operator_headers=headers)):
        office.done(webhook_url=f"{receiver.origin}/webhook/images/done?a=b")
        assert receiver.next().headers["x-token"] == "of the operator"

        for url in (f"{receiver.origin}/webhook/admin", f"{receiver.origin}/webhook/images/..%2fadmin"):
            office.done(webhook_url=url)
            assert "x-token" not in receiver.next().headers
        office.done(webhook_url=other.url)
        assert "x-token" not in other.next().headers


def test_who_names_an_origin_without_a_path_is_told_where_the_header_goes(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SD_WEBHOOK_HEADER", "X-Token: of-the-operator")
    for allow, told in (("http://n8n:5678", 1), ("http://n8n:5678/webhook-waiting", 0)):
        caplog.clear()
        monkeypatch.setenv("SD_WEBHOOK_ALLOW", allow)
        settings = load(HousekeeperSettings)

        create_webhook_sender(settings, office.images, JobLinks(settings, office.store))

        assert caplog.text.count("SD_WEBHOOK_HEADER goes to http://n8n:5678/webhook-waiting") == told
        assert "of-the-operator" not in caplog.text


def test_small_images_are_sent_along_where_that_is_asked_for(office: Office, receiver: Receiver) -> None:
    small, large = b"s" * 400, b"l" * 700
    with office.sending(office.courier([receiver.origin], inline_max_bytes=1000)):
        for inline in (True, False):
            job = office.started(office.accepted(webhook_url=receiver.url, webhook_inline_images=inline))
            office.succeeded(job, small, large)
            images = receiver.next().message["data"]["images"]

            carried = [image["b64_json"] and base64.b64decode(image["b64_json"]) for image in images]
            assert carried == ([small, None] if inline else [None, None])
            assert all(image["url"] for image in images)


def test_what_fails_is_sent_again_the_same_under_the_same_id(office: Office, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with office.sending(office.courier([receiver.origin]), schedule=[0.05] * 5):
        job = office.done(webhook_url=receiver.url)
        first = receiver.next()
        again = receiver.next()
        receiver.behave = answer(200)
        wait_until(lambda: office.deliveries(job)["succeeded"].state == "delivered")

    for arrival in receiver.arrivals:
        arrival.verify()
    assert {(arrival.id, arrival.body) for arrival in receiver.arrivals} == {(first.id, first.body)}
    assert again.headers["webhook-signature"]
    assert office.deliveries(job)["succeeded"].attempts == len(receiver.arrivals)


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        (answer(500), 500, "answered 500"),
        (answer(404), 404, "answered 404"),
        (answer(302, location="http://127.0.0.1:1/"), 302, "answered with a redirect, which is not followed"),
        (endless(500), 500, "answered more than 64 KB"),
        (hang(threading.Event()), None, "gave no whole answer in time"),
    ],
    ids=["500", "404", "redirect", "endless", "hanging"],
)
def test_a_bad_answer_is_told_and_tried_again_later(
    office: Office, receiver: Receiver, behaviour: Behaviour, status: int | None, error: str
) -> None:
    receiver.behave = behaviour
    with office.sending(office.courier([receiver.origin], total_seconds=0.5), SCHEDULE):
        job = office.done(webhook_url=receiver.url)
        wait_until(lambda: office.deliveries(job)["succeeded"].attempts == 1)

    told = office.deliveries(job)["succeeded"]
    assert (told.state, told.last_status, told.last_error) == ("pending", status, error)
    assert told.last_attempt_at is not None
    assert told.next_attempt_at is not None
    assert SCHEDULE[0] <= (told.next_attempt_at - told.last_attempt_at).total_seconds() <= SCHEDULE[0] * 1.2
    assert len(receiver.arrivals) == 1


@pytest.mark.parametrize("behaviour", [endless(200), answer(204)], ids=["endless", "short"])
def test_a_good_status_is_enough_whatever_follows(office: Office, receiver: Receiver, behaviour: Behaviour) -> None:
    receiver.behave = behaviour
    with office.sending(office.courier([receiver.origin])):
        job = office.done(webhook_url=receiver.url)
        wait_until(lambda: office.deliveries(job)["succeeded"].state == "delivered")

    assert len(receiver.arrivals) == 1


def test_an_address_that_has_become_private_is_not_connected_to(office: Office, receiver: Receiver) -> None:
    with office.sending(office.courier([]), SCHEDULE):
        job = office.done(webhook_url=receiver.url)
        wait_until(lambda: office.deliveries(job)["succeeded"].attempts == 1)

    assert "SD_WEBHOOK_ALLOW" in str(office.deliveries(job)["succeeded"].last_error)
    assert receiver.arrivals == []


def test_a_receiver_that_hangs_delays_nobody_else(office: Office, receiver: Receiver) -> None:
    released = threading.Event()
    receiver.behave = hang(released)
    with receiving() as other, office.sending(office.courier([receiver.origin, other.origin]), threads=8):
        for _ in range(50):
            office.done(webhook_url=receiver.url)
        wait_until(lambda: len(receiver.arrivals) == 4)
        begin = time.monotonic()
        for _ in range(20):
            office.done(webhook_url=other.url)
        for _ in range(20):
            other.next()
        took = time.monotonic() - begin
        assert len(receiver.arrivals) == 4
        released.set()
        wait_until(lambda: len(receiver.arrivals) == 50)

    assert took < 5


def test_several_senders_share_the_work_and_send_nothing_twice(office: Office, receiver: Receiver) -> None:
    courier = office.courier([receiver.origin])
    with office.sending(courier), office.sending(courier):
        jobs = [office.done(webhook_url=receiver.url) for _ in range(50)]
        wait_until(lambda: not office.keys)

    assert len(receiver.arrivals) == len({arrival.id for arrival in receiver.arrivals}) == len(jobs)


def test_a_sender_whose_line_to_redis_is_cut_sends_what_came_meanwhile(office: Office, receiver: Receiver) -> None:
    with office.sending(office.courier([receiver.origin])):
        office.done(webhook_url=receiver.url)
        receiver.next()
        listeners = office.store.client.client_list(_type="pubsub")
        # The newest is this test's own.
        office.store.client.client_kill_filter(_id=max(listeners, key=lambda one: int(one["id"]))["id"])
        office.done(webhook_url=receiver.url)

        receiver.next()


def test_a_webhook_that_cannot_be_read_stops_no_other(
    office: Office, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    broken = office.done(webhook_url=receiver.url)
    office.store.client.hset(f"{office.prefix}webhooks:event:{broken.id}_succeeded_1", "doc", "{}")
    with office.sending(office.courier([receiver.origin]), schedule=[0.01]):
        whole = office.done(webhook_url=receiver.url)
        assert receiver.next().message["data"]["id"] == whole.id
        wait_until(lambda: office.deliveries(broken)["succeeded"].state == "dead")

    assert "could not be sent" in caplog.text


def test_the_log_names_receivers_and_none_of_their_secrets(
    office: Office, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    allow = [f"{receiver.origin}/hooks"]
    courier = office.courier(allow, operator_headers=parse_receiver_headers("X-Token: of-the-operator", allow))
    with office.sending(courier, schedule=[0.01, 0.01]):
        job = office.done(webhook_url=receiver.url)
        receiver.next()
        receiver.behave = answer(500)
        job = office.done(webhook_url=receiver.url)
        wait_until(lambda: office.deliveries(job)["succeeded"].state == "dead")

    assert receiver.origin in caplog.text
    for secret in ("secret-of-the-caller", "/hooks/images", "of-the-operator", SECRET.removeprefix("whsec_")):
        assert secret not in caplog.text
        assert secret not in repr(courier)


def test_a_image_does_not_tell_who_was_told_of_it(tmp_path: Path) -> None:
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
