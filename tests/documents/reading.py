"""Reads the documents: code blocks, prose and tables."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "bench", "compose", "tools", "worker/models")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))])
#: Documents use this id for an existing job.
EXAMPLE_ID = "01a207b4-0da0-76eb-8b84-9486d49425aa"


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    document: Path
    line: int
    language: str
    reason: str
    """Why the commands cannot be run; empty where they are run."""
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


_FENCE = re.compile(r"^```(\w*) ?([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[Block]:
    return [block for document in DOCUMENTS for block in _blocks(document) if block.language == language]


def _blocks(document: Path) -> Iterator[Block]:
    text = document.read_text()
    for match in _FENCE.finditer(text):
        language, reason, content = match.groups()
        yield Block(document, text.count("\n", 0, match.start()) + 1, language, reason.strip(), content)


def prose(document: Path) -> str:
    """The document without its code blocks."""
    return _FENCE.sub("", document.read_text())


def table(document: str, head: str) -> list[list[str]]:
    """The cells of each row of the table below the line `head`."""
    lines = (ROOT / document).read_text().splitlines()
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[lines.index(head) + 2 :])
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
