"""What a service says while it is used, in logs, dashboard, metrics, Redis, errors and command lines, tells no secret.

The files of images are not among this: they hold the request that they can be made again with, and belong to its
caller.
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
    """Which canary is in which text, in any spelling of it."""
    spelled = {name: {canary, quote(canary), quote_plus(canary)} for name, canary in canaries.items()}
    read = {place: read_through(text) for place, text in texts.items()}
    return [
        f"{name} in {place}"
        for place, text in read.items()
        for name, spellings in spelled.items()
        if any(spelling in text for spelling in spellings)
    ]


def read_through(text: str) -> str:
    """The text with what is in its base64, as which Celery has its messages."""
    inside = []
    for run in re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", text):
        with suppress(ValueError):
            inside.append(base64.b64decode(run).decode(errors="replace"))
    return "\n".join((text, *inside))


def test_no_log_has_a_secret_or_what_callers_asked_for(whole: Whole) -> None:
    logs = whole.logs

    # Of requests the path is logged, where that is asked for; never its query.
    assert found(logs, SECRETS | PRIVATE | {"path": "?key="}) == []
    assert all(logs.values())


def test_no_page_of_the_dashboard_has_any(whole: Whole) -> None:
    pages = whole.pages()

    assert found(pages, SECRETS | PRIVATE) == []
    assert "generate" in pages["flower /api/tasks"]


def test_redis_holds_what_callers_asked_for_with_their_jobs_and_no_secret_at_all(whole: Whole) -> None:
    kept = whole.kept()
    records = {
        key for key in kept if key.startswith((f"{whole.stack.prefix}job:", f"{whole.stack.prefix}webhooks:event:"))
    }

    assert found(kept, SECRETS) == []
    assert found({key: text for key, text in kept.items() if key not in records}, PRIVATE) == []
    assert found({key: kept[key] for key in records}, PRIVATE)
    assert [text for key, text in kept.items() if "generate.sd" in key and "argsrepr" in text]


def test_nothing_that_is_published_has_any(whole: Whole) -> None:
    heard = b"\n".join(whole.published).decode(errors="replace")

    assert found({"published": heard}, SECRETS | PRIVATE) == []
    for part in ("task-succeeded", "worker-heartbeat", f"{whole.stack.prefix}events"):
        assert part in read_through(heard)


def test_no_refusal_echoes_any(whole: Whole) -> None:
    refusals = whole.refusals
    told = {
        f"{number}: {answer.request.method} {answer.request.url}": f"{answer.headers} {answer.text}"
        for number, answer in enumerate(refusals)
    }

    assert found(told, SECRETS | PRIVATE) == []
    assert {answer.status_code for answer in refusals} >= {401, 402, 403, 404, 405, 415, 421, 422, 500, 502, 507}


def test_no_command_line_has_any(whole: Whole) -> None:
    lines = whole.command_lines()

    assert found({"command lines": lines}, SECRETS) == []
    assert "compose.launcher.flower" in lines or "flower" in lines
