"""The error for each response of the provider, as documented in docs/backends.md."""

import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from api.problems import STATUS
from shared.errors import ContentRejected, JobFailure, ProviderResponseLost, UpstreamRejected
from tests.worker.engines.bfl.conftest import QUICK, Table
from tests.worker.engines.bfl.provider import KEY, Reply, refused, state
from worker.engines.bfl import http

DOCS = Path(__file__).parents[4] / "docs/backends.md"
ROW = re.compile(r"^\| ((?:submit|poll|image): .*?) \| `([a-z-]+)` \| (\d{3}) \|$", re.MULTILINE)
DOCUMENTED = {case: (code, int(status)) for case, code, status in ROW.findall(DOCS.read_text())}


def submit(*replies: Reply) -> Callable[[Table], None]:
    def arrange(table: Table) -> None:
        table.provider.submits = list(replies)

    return arrange


def poll(*replies: Reply) -> Callable[[Table], None]:
    def arrange(table: Table) -> None:
        table.provider.polls = list(replies)
        table.seconds = 0.8

    return arrange


def download(*replies: Reply) -> Callable[[Table], None]:
    def arrange(table: Table) -> None:
        table.provider.downloads = list(replies)
        table.seconds = 0.8

    return arrange


def nobody_there(table: Table) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        table.url = f"http://127.0.0.1:{probe.getsockname()[1]}"


def private_sample(table: Table) -> None:
    table.provider.polls = [state("Ready", result={"sample": "http://10.0.0.1/image"})]
    table.seconds = 0.8


FIELDS = [{"loc": ["body", "width"], "msg": "must be a multiple of 16", "type": "multiple_of"}]

CASES: dict[str, Callable[[Table], None]] = {
    "submit: HTTP 400": submit(refused(400, "no")),
    "submit: HTTP 401": submit(refused(401, "Not authenticated")),
    "submit: HTTP 402": submit(refused(402, "Insufficient credits")),
    "submit: HTTP 403": submit(refused(403, "Not authenticated - Invalid Authentication")),
    "submit: HTTP 404": submit(refused(404, "Not Found")),
    "submit: HTTP 422 about the key": submit(refused(422, "Invalid API key format")),
    "submit: HTTP 422 about fields": submit(refused(422, FIELDS)),
    "submit: HTTP 429, again and again": submit(refused(429, "Too many requests")),
    "submit: HTTP 500": submit(refused(500)),
    "submit: HTTP 503": submit(refused(503)),
    "submit: a redirect": submit(Reply(303, headers={"Location": "/v1/elsewhere"})),
    "submit: no connection": nobody_there,
    "submit: answer lost": submit(Reply(hang_up=True)),
    "submit: answer without a task": submit(Reply(raw=b"<html>")),
    "poll: Request Moderated": poll(state("Request Moderated")),
    "poll: Content Moderated": poll(state("Content Moderated")),
    "poll: Error": poll(state("Error")),
    "poll: Failed": poll(state("Failed")),
    "poll: Task not found, for a minute": poll(state("Task not found")),
    "poll: any other status until the time limit": poll(state("Dreaming")),
    "poll: Ready without an image until the time limit": poll(state("Ready")),
    "poll: HTTP 403 until the time limit": poll(refused(403, "Not authenticated")),
    "poll: HTTP 429 until the time limit": poll(refused(429)),
    "poll: HTTP 500 until the time limit": poll(refused(500)),
    "poll: nonsense until the time limit": poll(Reply(raw=b"[[[")),
    "image: HTTP 403 until the time limit": download(Reply(403, raw=b"expired")),
    "image: at an address that is not public, until the time limit": private_sample,
    "image: none, three times": download(Reply(raw=b"GIF89a" + b"\0" * 100)),
    "image: too large, three times": download(Reply(raw=b"\x89PNG\r\n\x1a\n" + b"\0" * 5000)),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_IMAGE_BYTES", 2000)


def failure(table: Table) -> JobFailure:
    with pytest.raises(JobFailure) as raised:
        table.made()
    assert KEY not in str(raised.value)
    return raised.value


@pytest.mark.parametrize("case", CASES)
def test_every_failure_has_the_documented_code_and_status(table: Table, case: str, small: None) -> None:
    CASES[case](table)

    code = failure(table).code

    assert (code, STATUS[code]) == DOCUMENTED[case]


def test_every_documented_failure_is_tested() -> None:
    assert list(DOCUMENTED) == list(CASES)


@pytest.mark.parametrize(
    "case",
    [
        "submit: HTTP 400",
        "submit: HTTP 402",
        "submit: HTTP 422 about fields",
        "submit: HTTP 500",
        "submit: HTTP 503",
        "submit: a redirect",
        "submit: answer lost",
    ],
)
def test_a_submit_that_was_refused_or_may_have_been_accepted_is_not_repeated(table: Table, case: str) -> None:
    CASES[case](table)

    failure(table)

    assert len(table.provider.posts) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(hang_up=True),
        Reply(body={"id": "x"}, claim=1000),
        Reply(seconds=0.5, body={}),
        Reply(trickle=True, raw=b'{"id": "a"}' + b" " * 40),
        Reply(raw=b"{}"),
        Reply(body={"id": ""}),
        Reply(raw=b"x" * 2_000_000),
        Reply(500, raw=b""),
        Reply(502, raw=b""),
        Reply(503, raw=b"", headers={"Retry-After": "0"}),
        Reply(504, raw=b""),
        Reply(302, headers={"Location": "/"}),
    ],
    ids=["hung up", "cut", "too late", "trickle", "no task", "no id", "endless", "500", "502", "503", "504", "302"],
)
def test_a_lost_response_is_reported_as_a_possible_charge(table: Table, reply: Reply) -> None:
    table.provider.submits = [reply]
    table.timeouts = replace(QUICK, submit_seconds=0.3)

    error = failure(table)

    assert isinstance(error, ProviderResponseLost)
    assert "may have charged" in error.detail
    assert not error.retryable
    assert len(table.provider.posts) == 1


@pytest.mark.parametrize("status", ["Request Moderated", "Content Moderated"])
def test_the_reasons_of_a_moderation_are_reported(table: Table, status: str) -> None:
    table.provider.polls = [state(status, details={"Moderation Reasons": ["Derivative Works", "Violence"]})]

    error = failure(table)

    assert isinstance(error, ContentRejected)
    assert error.detail == f"Black Forest Labs refused the content: {status} (Derivative Works, Violence)."


@pytest.mark.parametrize(
    ("reply", "last"),
    [
        (state("Dreaming"), 'Its last status was "Dreaming".'),
        (refused(403, f"no {KEY}"), "Black Forest Labs does not return its status: HTTP 403: no ***."),
        (Reply(raw=b"<html>"), "The responses of Black Forest Labs are unreadable."),
        (Reply(500), "The last request to the provider failed: HTTP 500."),
    ],
    ids=["status", "refused", "nonsense", "500"],
)
def test_a_timeout_reports_what_was_paid_for_and_the_last_response(table: Table, reply: Reply, last: str) -> None:
    poll(reply)(table)

    error = failure(table)

    assert error.detail.endswith(f"The task task-1 of Black Forest Labs was paid for. {last}")
    assert not error.retryable


@pytest.mark.parametrize(
    ("arrange", "reason"),
    [
        (submit(refused(429)), "accepts no more tasks now (429)"),
        (nobody_there, "cannot be reached (ConnectionError)"),
    ],
    ids=["rejected", "nobody there"],
)
def test_a_submit_that_was_not_accepted_is_reported_as_not_charged(
    table: Table, arrange: Callable[[Table], None], reason: str
) -> None:
    arrange(table)

    error = failure(table)

    assert error.detail == f"Black Forest Labs {reason}; nothing was charged for this."
    assert error.retryable


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (refused(422, "Invalid API key format"), "refuses the key in SD_BFL_API_KEY: Invalid API key format."),
        (refused(422, FIELDS), "refuses the request (HTTP 422): width: must be a multiple of 16."),
        (refused(403, "Not authenticated"), "refuses the key in SD_BFL_API_KEY: Not authenticated."),
        (refused(400, f"bad key {KEY}"), "refuses the request (HTTP 400): bad key ***."),
        (refused(400, "x" * 1000), "refuses the request (HTTP 400): " + "x" * 300 + "."),
        (refused(400, "a\nb \x1b[2Jc"), "refuses the request (HTTP 400): a b [2Jc."),
        (refused(400, {"odd": 1}), "refuses the request (HTTP 400)."),
        (Reply(400, raw=b"[" * 100_000), "refuses the request (HTTP 400)."),
    ],
    ids=["key", "fields", "403", "quotes the key", "long", "controls", "odd", "deep"],
)
def test_messages_of_the_provider_are_sanitised(table: Table, reply: Reply, detail: str) -> None:
    table.provider.submits = [reply]

    error = failure(table)

    assert isinstance(error, UpstreamRejected)
    assert error.detail == f"Black Forest Labs {detail}"
