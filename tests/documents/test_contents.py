"""Documents agree with the code: links, files, fields, generated pages, words."""

import re
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote

import pytest

from shared.jobs.requests import GenerationRequest
from tests.documents.reading import DOCUMENTS, ROOT, prose, table
from tools import configuration, env_example, errors

PACKAGES = ("api", "worker", "shared", "compose")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
#: A file or folder of this repository, in code style.
_PATH = re.compile(r"`((?:api|bench|compose|docs|shared|tests|tools|worker)/[\w./-]*)`")

#: Phrases that we do not use, and what to write instead. Single words are in tools/words.txt.
PHRASES = {
    "in line": "queued, in the queue",
    "is told": "receives, is notified",
    "are told": "receive, are notified",
    "there is none": "is missing, does not exist",
    "who asks": "the caller",
    "like any other": "as usual",
    "at home": "reachable",
    "what there is": "what is available",
    "nothing comes of it": "it is ignored",
    "that there are": "existing",
    "speaks like": "is compatible with",
}
#: Shrink this set as the code loses them.
STILL_IN_CODE = {"in line", "there is none"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_have_a_target(document: Path) -> None:
    broken = [link for link in _LINK.findall(prose(document)) if not _has_target(document, link)]

    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(document: Path) -> None:
    paths = _PATH.findall(prose(document))
    ignored = (ROOT / ".gitignore").read_text().split()

    assert [path for path in paths if not (ROOT / path).exists() and f"/{path}" not in ignored] == []


def test_contributing_says_where_each_everyday_change_goes() -> None:
    rows = table("CONTRIBUTING.md", "| to add | change | tests |")
    changes = {cells[0]: _PATH.findall(" ".join(cells[1:])) for cells in rows}

    assert len(changes) >= 10
    # test_named_files_exist checks that the paths exist.
    assert [change for change, paths in changes.items() if not paths] == []


def test_the_architecture_names_every_room() -> None:
    rooms = {path.parent for name in PACKAGES for path in ROOT.glob(f"{name}/*/__init__.py")}
    named = {ROOT / path for path in _PATH.findall((ROOT / "docs/architecture.md").read_text())}

    assert rooms <= named
    first_cells = [
        cells[0] for cells in table("docs/architecture.md", "| room | holds | may import (beside `shared`) |")
    ]
    assert len(first_cells) == len({*first_cells}), "a room has one row"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_plain_phrases(document: Path) -> None:
    assert private_phrases(prose(document), PHRASES) == []


def test_docstrings_comments_and_messages_use_plain_phrases() -> None:
    paths = [
        path
        for package in PACKAGES
        for suffix in ("py", "lua", "yaml")
        for path in (ROOT / package).rglob(f"*.{suffix}")
    ]
    found = {
        str(path.relative_to(ROOT)): private_phrases(path.read_text(), PHRASES.keys() - STILL_IN_CODE) for path in paths
    }

    assert {path: phrases for path, phrases in found.items() if phrases} == {}


def test_nobody_is_advised_to_install_the_package_of_this_name_which_is_another_project() -> None:
    paths = [*DOCUMENTS, *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]

    assert [path for path in paths if re.search(r"pip install[^\n]*\bimagegen", path.read_text())] == []


def private_phrases(text: str, phrases: Collection[str]) -> list[str]:
    pattern = re.compile(rf"\b(?:{'|'.join(phrases)})\b", re.IGNORECASE)
    return [f"{match[0]}: write {PHRASES[match[0].lower()]}" for match in pattern.finditer(" ".join(text.split()))]


@pytest.mark.parametrize(
    ("document", "generated"),
    [
        (".env.example", env_example.render()),
        ("docs/configuration.md", configuration.render()),
        ("docs/errors.md", errors.render()),
    ],
)
def test_generated_documents_are_up_to_date(document: str, generated: str) -> None:
    assert (ROOT / document).read_text() == generated, "run `make fix`"


def test_every_field_of_a_request_is_described() -> None:
    rows = table("docs/api.md", "| field | type | default |")
    described = [name for cells in rows for name in re.findall(r"`(\w+)`", cells[0])]

    assert sorted(described) == sorted(GenerationRequest.model_fields)


def _has_target(document: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return link.startswith("https://")
    path, _, anchor = link.partition("#")
    target = (document.parent / unquote(path)).resolve() if path else document
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(document: Path) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
