"""What documents say of the code is so, and what they point at is there."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from shared.jobs.requests import GenerationRequest
from tests.documents.reading import DOCUMENTS, ROOT, prose, table
from tests.stack import Stack
from tools import configuration, env_example, errors

_LINK = re.compile(r"\]\(([^)\s]+)\)")
#: In code style, with a folder in it: a file or folder of this repository.
_PATH = re.compile(r"`((?:api|bench|compose|docs|shared|tests|tools|worker)/[\w./-]*)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in _LINK.findall(prose(document)) if not _leads_somewhere(document, link)]

    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(document: Path) -> None:
    named = _PATH.findall(prose(document))
    # What is made here is not part of the repository.
    made = (ROOT / ".gitignore").read_text().split()

    assert [path for path in named if not (ROOT / path).exists() and f"/{path}" not in made] == []


def test_every_call_is_described(null: Stack) -> None:
    described = {cells[0].strip("`") for cells in table("docs/api.md", "| call | does |")}
    schema: dict[str, Any] = null.api.get("/openapi.json").json()

    there = {f"{method.upper()} {path}" for path, methods in schema["paths"].items() for method in methods}
    assert there - described == set(), "has no row in docs/api.md"
    assert described - there == {"GET /docs"}


@pytest.mark.parametrize(
    ("document", "generated"),
    [
        (".env.example", env_example.render()),
        ("docs/configuration.md", configuration.render()),
        ("docs/errors.md", errors.render()),
    ],
)
def test_what_is_generated_is_what_the_code_says(document: str, generated: str) -> None:
    assert (ROOT / document).read_text() == generated, "run `make fix`"


def test_every_field_of_a_request_is_described() -> None:
    rows = table("docs/api.md", "| field | type | left out |")
    described = [name for cells in rows for name in re.findall(r"`(\w+)`", cells[0])]

    assert sorted(described) == sorted(GenerationRequest.model_fields)


def _leads_somewhere(document: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return link.startswith("https://")
    place, _, anchor = link.partition("#")
    target = (document.parent / unquote(place)).resolve() if place else document
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
