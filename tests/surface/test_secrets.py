"""Logs, dashboard, metrics, Redis, errors and command lines contain no secret.

Image files are exempt: they contain the request that reproduces them, and belong to its caller.
"""

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import quote, quote_plus

import pytest

from tests.surface.whole import PRIVATE, SECRETS, Whole, started, use


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """A service that has been used."""
    with started(tmp_path_factory.mktemp("whole")) as whole:
        use(whole)
        yield whole


def found(texts: Mapping[str, str], canaries: Mapping[str, str]) -> list[str]:
    """The canaries that occur in the texts, in any spelling."""
    spelled = {name: {canary, quote(canary), quote_plus(canary)} for name, canary in canaries.items()}
    decoded = {source: with_decoded(text) for source, text in texts.items()}
    return [
        f"{name} in {source}"
        for source, text in decoded.items()
        for name, spellings in spelled.items()
        if any(spelling in text for spelling in spellings)
    ]


def with_decoded(text: str) -> str:
    """The text, followed by what its base64 decodes to: Celery encodes messages so."""
    decoded = []
    for run in re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", text):
        with suppress(ValueError):
            decoded.append(base64.b64decode(run).decode(errors="replace"))
    return "\n".join((text, *decoded))


def test_logs_contain_no_secret_or_request_data(whole: Whole) -> None:
    logs = whole.logs

    # The access log contains paths, but never queries.
    assert found(logs, SECRETS | PRIVATE | {"path": "?key="}) == []
    assert all(logs.values())


def test_the_dashboard_contains_no_secret_or_request_data(whole: Whole) -> None:
    pages = whole.pages()

    assert found(pages, SECRETS | PRIVATE) == []
    assert "generate" in pages["flower /api/tasks"]


def test_redis_contains_request_data_in_job_records_only_and_no_secret(whole: Whole) -> None:
    stored = whole.redis_keys()
    records = {
        key for key in stored if key.startswith((f"{whole.stack.prefix}job:", f"{whole.stack.prefix}webhooks:event:"))
    }

    assert found(stored, SECRETS) == []
    assert found({key: text for key, text in stored.items() if key not in records}, PRIVATE) == []
    assert found({key: stored[key] for key in records}, PRIVATE)
    assert [text for key, text in stored.items() if "generate.sd" in key and "argsrepr" in text]


def test_published_messages_contain_no_secret_or_request_data(whole: Whole) -> None:
    published = b"\n".join(whole.published).decode(errors="replace")

    assert found({"published": published}, SECRETS | PRIVATE) == []
    for part in ("task-succeeded", "worker-heartbeat", f"{whole.stack.prefix}events"):
        assert part in with_decoded(published)


def test_errors_echo_no_secret_or_request_data(whole: Whole) -> None:
    refusals = whole.refusals
    answers = {
        f"{number}: {answer.request.method} {answer.request.url}": f"{answer.headers} {answer.text}"
        for number, answer in enumerate(refusals)
    }

    assert found(answers, SECRETS | PRIVATE) == []
    assert {answer.status_code for answer in refusals} >= {401, 402, 403, 404, 405, 415, 421, 422, 500, 502, 507}


def test_command_lines_contain_no_secret(whole: Whole) -> None:
    lines = whole.command_lines()

    assert found({"command lines": lines}, SECRETS) == []
    assert "compose.launcher.flower" in lines or "flower" in lines
