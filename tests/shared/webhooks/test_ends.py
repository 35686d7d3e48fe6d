"""How each webhook ends, and when it is tried again: a real sender, and receivers that do not take what they get."""

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trustme

from shared.jobs.housekeeping import JobHousekeeping
from shared.net.egress_proxy import EgressProxy
from tests.polling import wait_until
from tests.shared.outbound.proxies import proxying
from tests.shared.outbound.servers import Script, moved, serve
from tests.shared.webhooks.office import Office
from tests.shared.webhooks.receiver import Receiver, answer, receiving, tomorrow
from worker.housekeeper.retry_policy import SCHEDULE


def test_nobody_there_is_tried_again_later(office: Office) -> None:
    with receiving() as receiver:
        pass
    with office.sending(office.courier([receiver.origin]), SCHEDULE):
        job = office.done(webhook_url=receiver.url)
        wait_until(lambda: office.deliveries(job)["succeeded"].attempts == 1)

    assert office.deliveries(job)["succeeded"].last_error == "could not be reached: the server takes no connections"


def test_webhooks_go_out_through_the_proxy_and_its_refusal_is_told(office: Office, receiver: Receiver) -> None:
    with proxying() as proxy, office.sending(office.courier([], proxy=EgressProxy.parse(proxy.url)), SCHEDULE):
        proxy.ports["hooks.example.com:80"] = int(receiver.origin.rpartition(":")[2])
        office.done(webhook_url="http://hooks.example.com/hook")
        receiver.next().verify()

        refused = office.done(webhook_url="https://elsewhere.example.com/hook")
        wait_until(lambda: office.deliveries(refused)["succeeded"].attempts == 1)

    told = office.deliveries(refused)["succeeded"].last_error
    assert told == "could not be reached: the egress proxy does not connect to it (HTTP 502)"


@pytest.mark.parametrize("form", ["seconds", "date", "date by its own clock", "too long", "nonsense"])
def test_a_receiver_that_asks_for_time_is_given_it_within_bounds(office: Office, receiver: Receiver, form: str) -> None:
    asked, given = {
        "seconds": ("120", 120.0),
        "date": (format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True), 119.0),
        "date by its own clock": (
            format_datetime(datetime.now(UTC) + timedelta(days=1, seconds=120), usegmt=True),
            119.0,
        ),
        "too long": ("999999", 3600.0),
        "nonsense": ("soon", SCHEDULE[0]),
    }[form]
    receiver.behave = tomorrow(answer(429, retry_after=asked)) if "own" in form else answer(429, retry_after=asked)
    with office.sending(office.courier([receiver.origin]), SCHEDULE):
        job = office.done(webhook_url=receiver.url)
        wait_until(lambda: office.deliveries(job)["succeeded"].attempts == 1)

    told = office.deliveries(job)["succeeded"]
    assert told.next_attempt_at is not None
    assert told.last_attempt_at is not None
    assert given - 3 <= (told.next_attempt_at - told.last_attempt_at).total_seconds() <= given + 3


def test_waits_are_by_the_clock_of_redis_and_the_timestamp_is_the_senders(office: Office, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    ahead = timedelta(days=1)
    with office.sending(office.courier([receiver.origin], now=lambda: datetime.now(UTC) + ahead), SCHEDULE):
        job = office.done(webhook_url=receiver.url)
        stamp = int(receiver.next().headers["webhook-timestamp"])
        wait_until(lambda: office.deliveries(job)["succeeded"].attempts == 1)

    told, (seconds, _) = office.deliveries(job)["succeeded"], office.store.client.time()
    assert told.last_attempt_at is not None
    assert told.next_attempt_at is not None
    assert abs(stamp - ahead.total_seconds() - seconds) < 5
    assert abs(told.last_attempt_at.timestamp() - seconds) < 5
    assert SCHEDULE[0] <= (told.next_attempt_at - told.last_attempt_at).total_seconds() <= SCHEDULE[0] * 1.2


def test_410_ends_all_that_is_on_its_way_of_this_job(office: Office, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with office.sending(office.courier([receiver.origin]), SCHEDULE):
        job = office.started(office.accepted(webhook_url=receiver.url, webhook_events=["started", "succeeded"]))
        wait_until(lambda: office.deliveries(job)["started"].attempts == 1)
        receiver.behave = answer(410)
        office.succeeded(job)
        wait_until(lambda: office.deliveries(job)["succeeded"].state == "dead")

    assert office.deliveries(job)["started"].state == "dropped"
    assert office.deliveries(job)["started"].last_error == "its receiver wants to hear no more of this job"
    assert receiver.types == ["started", "succeeded"]
    assert office.keys == {"dead", "dead:", f"event:{job.id}_succeeded_1"}


def test_what_is_on_its_way_arrives_although_its_job_is_forgotten(office: Office, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with office.sending(office.courier([receiver.origin]), schedule=[0.2] * 9):
        job = office.succeeded(
            office.started(office.accepted("n8n", webhook_url=receiver.url, webhook_inline_images=True)), b"an image"
        )
        receiver.next()
        assert office.run(JobHousekeeping(office.prefix).delete_job(job.id))
        office.images.discard(job, [0])
        receiver.behave = answer(204)
        wait_until(lambda: not office.keys)

    told = receiver.arrivals[-1].message["data"]
    assert (told["id"], told["state"], told["images"][0]["b64_json"]) == (job.id, "succeeded", None)
    assert not list(office.store.client.scan_iter(f"{office.prefix}job:*"))


@pytest.mark.parametrize("kind", ["certificate", "no TLS", "redirect"])
def test_what_can_never_arrive_ends_dead_and_says_why(office: Office, kind: str) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)
    act = moved("http://127.0.0.1:1/")
    script = Script(act, tls=tls if kind == "certificate" else None, silent=kind == "no TLS")
    with serve(script) as server:
        origin = f"{'http' if kind == 'redirect' else 'https'}://127.0.0.1:{server.port}"
        with office.sending(office.courier([origin]), schedule=[0.01]):
            job = office.done(webhook_url=f"{origin}/hook")
            wait_until(lambda: office.deliveries(job)["succeeded"].state == "dead")

    told = office.deliveries(job)["succeeded"]
    unsafe = (
        "could not be reached: no secure connection: the certificate is not trusted, not valid or not for this host"
    )
    expected = "answered with a redirect, which is not followed" if kind == "redirect" else unsafe
    assert (told.attempts, told.last_error, told.next_attempt_at) == (2, expected, None)


def test_410_ends_it_at_once(office: Office, receiver: Receiver) -> None:
    receiver.behave = answer(410)
    with office.sending(office.courier([receiver.origin])):
        job = office.started(office.accepted(webhook_url=receiver.url, webhook_events=["started", "succeeded"]))
        wait_until(lambda: office.deliveries(job)["started"].state == "dead")
        office.succeeded(job)

    assert "succeeded" not in office.deliveries(job)
    assert receiver.types == ["started"]


def test_what_never_arrives_is_given_up_and_can_be_sent_again(office: Office, receiver: Receiver) -> None:
    receiver.behave = answer(503)
    with office.sending(office.courier([receiver.origin]), schedule=[0.02, 0.02]):
        job = office.done(webhook_url=receiver.url)
        wait_until(lambda: office.deliveries(job)["succeeded"].state == "dead")
        assert len(receiver.arrivals) == 3
        receiver.behave = answer(200)
        office.run(office.webhooks.redeliver(receiver.arrivals[0].id))
        wait_until(lambda: office.deliveries(job)["succeeded"].state == "delivered")

    assert len({arrival.id for arrival in receiver.arrivals}) == 1
    assert office.keys == set()


def test_progress_that_fails_is_not_sent_again(office: Office, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    with office.sending(office.courier([receiver.origin])):
        job = office.started(office.accepted(webhook_url=receiver.url, webhook_events=["progress"]))
        office.step(job, 1)
        wait_until(lambda: office.deliveries(job)["progress"].state == "dropped")

    assert office.keys == set()
