"""Polling a task: statuses, progress, pauses, and which hosts get the API key."""

import itertools
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import SecretStr

from shared.errors import JobFailure
from shared.net.outbound import HttpResponse
from tests.worker.engines.bfl.conftest import Stop, Table, stop_after
from tests.worker.engines.bfl.provider import KEY, Reply, refused, state
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.bfl.http import Http, ProviderTimeouts


@pytest.mark.parametrize("status", ["Pending", "Reasoning", "Generating"])
def test_a_running_task_is_polled_again(table: Table, status: str) -> None:
    table.provider.polls = [state(status), state(status, progress=0.5), table.provider.ready()]
    steps: list[Step] = []

    table.made(RecordingWatch(steps.append))

    assert table.provider.count("/v1/get_result") == 3
    assert [(step.step, step.steps) for step in steps] == [(50, 100)]


@pytest.mark.parametrize("progress", [None, "half", -1, 2, True, [], 1e400])
def test_invalid_progress_is_ignored(table: Table, progress: object) -> None:
    table.provider.polls = [state("Pending", progress=progress), table.provider.ready()]
    steps: list[Step] = []

    table.made(RecordingWatch(steps.append))

    assert steps == []


def test_progress_grows_over_several_images(table: Table) -> None:
    table.provider.polls = [state("Pending", progress=0.5), table.provider.ready()] * 2
    steps: list[Step] = []

    table.made(RecordingWatch(steps.append), num_images=2)

    assert [step.step for step in steps] == [25, 75]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(404, raw=b"<html>"),
        state("Dreaming"),
        state("Ready"),
        state("Ready", result={"sample": None}),
        *[refused(status) for status in (400, 401, 402, 403, 409, 422, 429, 500, 502, 503, 504)],
        Reply(307, headers={"Location": "/"}),
        Reply(hang_up=True),
        Reply(seconds=2, body={}),
        Reply(raw=b"<html>"),
        Reply(raw=b""),
        Reply(body={}),
        Reply(body=[]),
        Reply(body={"status": 7}),
        Reply(raw=b"x" * 2_000_000),
    ],
)
def test_only_a_final_status_ends_a_task_that_was_paid_for(table: Table, reply: Reply) -> None:
    # Except for the slow one: more often than a submit is tried.
    table.provider.polls = [*[reply] * (1 if reply.seconds else 11), table.provider.ready()]

    assert len(table.made()) == 1
    assert len(table.provider.posts) == 1


def test_a_task_that_is_not_known_yet_is_polled_again(table: Table) -> None:
    table.provider.polls = [state("Task not found"), refused(404, "no such task")] * 3 + [table.provider.ready()]
    # Usually tests wait for half a second, which six polls may take on a busy machine.
    table.timeouts = ProviderTimeouts(first_pause=0.01, longest_pause=0.02)

    assert len(table.made()) == 1


def test_a_task_that_is_unknown_now_and_then_continues(table: Table) -> None:
    table.provider.polls = [state("Task not found"), state("Pending")] * 10 + [table.provider.ready()]

    assert len(table.made()) == 1


@pytest.mark.parametrize("fields", [{}, {"polling_url": None}, {"polling_url": "https://example.com/task"}])
def test_a_task_without_a_valid_polling_url_is_polled_at_the_common_one(
    table: Table, fields: dict[str, object]
) -> None:
    table.provider.submits = [Reply(body={"id": "a/1&b", **fields})]

    assert len(table.made()) == 1
    assert table.provider.count("/v1/get_result?id=a%2F1%26b") == 1


@pytest.mark.parametrize("where", ["submit", "poll"])
def test_retry_after_is_respected(table: Table, where: str) -> None:
    busy = refused(429, Retry_After="3600")
    if where == "submit":
        table.provider.submits = [busy, table.provider.accept]
    else:
        table.provider.polls = [busy, table.provider.ready()]
    begin = time.monotonic()

    table.made()

    # Not an hour: the limit in these tests is 0.4 s.
    assert 0.4 <= time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2", 2.0),
        ("0", 0.5),
        ("-5", 0.5),
        ("soon", 0.5),
        ("", 0.5),
        ("99999999999999999999", 60.0),
        (format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 60.0),
        (format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True), 0.5),
    ],
    # The names must be the same in every test process.
    ids=["seconds", "none", "less than none", "words", "nothing", "ages", "a moment to come", "a moment past"],
)
def test_every_form_of_retry_after_is_understood(header: str, seconds: float) -> None:
    timeouts = ProviderTimeouts()

    assert timeouts.retry_pause(0.5, HttpResponse(429, {"retry-after": header}, b"").retry_after()) == seconds


@pytest.mark.parametrize("apart", [timedelta(), timedelta(days=3), timedelta(days=-3)])
def test_a_date_in_retry_after_is_relative_to_the_servers_clock(apart: timedelta) -> None:
    now = datetime.now(UTC) + apart
    headers = {"date": format_datetime(now, usegmt=True), "retry-after": format_datetime(now + timedelta(seconds=20))}

    assert HttpResponse(429, headers, b"").retry_after() == 20


def test_pauses_grow_to_a_limit_and_have_jitter() -> None:
    pauses = list(itertools.islice(ProviderTimeouts().pauses(), 200))

    assert 0.4 <= pauses[0] <= 0.6
    assert 0.6 <= pauses[1] <= 0.9
    assert all(4 <= pause <= 6 for pause in pauses[10:])
    assert len(set(pauses)) == 200


def test_a_job_can_be_stopped_between_two_polls(table: Table) -> None:
    table.provider.polls = [state("Pending")]

    with pytest.raises(Stop):
        table.made(RecordingWatch(check=stop_after(20)))

    assert len(table.provider.posts) == 1


def test_a_job_can_be_stopped_while_it_waits_for_the_next_submit(table: Table) -> None:
    table.provider.submits = [refused(429, Retry_After="60")]

    with pytest.raises(Stop):
        table.made(RecordingWatch(check=stop_after(2)))


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.bfl.ai/v1/get_result?id=1", True),
        ("https://api.eu2.bfl.ai/v1/get_result?id=1", True),
        ("https://api.us-1.bfl.ai:443/x", True),
        ("http://api.bfl.ai/x", False),
        ("https://api.bfl.ai:8443/x", False),
        ("https://api-bfl.ai/x", False),
        ("https://api.a.b.bfl.ai/x", False),
        ("https://api.bfl.ai.example.com/x", False),
        ("https://evil-api.bfl.ai/x", False),
        ("https://delivery-eu1.bfl.ai/x", False),
        ("https://example.com/api.bfl.ai", False),
        ("https://user@api.bfl.ai/x", False),
        ("https://example.com\\@api.bfl.ai/x", False),
        ("https://api.bfl.ai\\.example.com/x", False),
        ("https://api.bfl.ai /x", False),
        ("https://api.bfl.ai\n.example.com/", False),
        ("https://api.bfl.ai:port/x", False),
        ("https://[api.bfl.ai/x", False),
        ("ftp://api.bfl.ai/x", False),
        ("", False),
        ("https://own.example.com:8000/x", True),
        ("https://own.example.com/x", False),
        ("http://own.example.com:8000/x", False),
    ],
)
def test_only_hosts_of_the_api_get_the_key(url: str, may: bool) -> None:
    assert Http("https://own.example.com:8000", SecretStr(KEY), ProviderTimeouts()).may_have_key(url) is may


def test_a_foreign_polling_url_is_not_used(table: Table) -> None:
    url = f"{table.provider.delivery_url}/v1/get_result?id=1"
    table.provider.submits = [Reply(body={"id": "a", "polling_url": url})]

    table.made()

    assert table.provider.count("/v1/get_result?id=a") == 1
    assert [request.headers.get("x-key") for request in table.provider.requests] == [KEY, KEY, None]


def test_the_key_is_in_no_log_and_no_error(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    table.provider.polls = [refused(500), Reply(hang_up=True), state("Error", details={"key": KEY})]

    with pytest.raises(JobFailure) as raised:
        table.made()

    assert KEY not in caplog.text
    assert KEY not in repr(raised.value)
    assert KEY not in repr(vars(table.backend))


def test_credits_are_reported(table: Table) -> None:
    assert table.backend.credits() == 123.5


@pytest.mark.parametrize(
    "reply",
    [refused(403), refused(500), Reply(raw=b"x"), Reply(body={}), Reply(body={"credits": "many"}), Reply(hang_up=True)],
)
def test_unknown_credits_are_not_an_error(table: Table, reply: Reply) -> None:
    table.provider.credits = reply

    assert table.backend.credits() is None
