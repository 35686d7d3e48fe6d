"""What held, as a table, and in docs/n8n.md."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.compose.n8n.trial.installation import N8N_VERSION, NODE_VERSION

DOCUMENT = Path(__file__).parents[4] / "docs" / "n8n.md"
HEAD = "| checked | held | how |\n|---|---|---|\n"


@dataclass(frozen=True)
class Outcome:
    name: str
    held: bool
    how: str

    @property
    def word(self) -> str:
        return "yes" if self.held else "NO"


def as_table(outcomes: Sequence[Outcome]) -> str:
    return HEAD + "\n".join(f"| {outcome.name} | {outcome.word} | {outcome.how} |" for outcome in outcomes)


def into_document(outcomes: Sequence[Outcome]) -> None:
    text = DOCUMENT.read_text()
    start = re.search(r"^n8n [\d.]+, Node [\d.]+:\n\n", text, re.MULTILINE)
    if start is None or not text.startswith(HEAD, start.end()):
        raise ValueError(f"{DOCUMENT} has no table of what was checked")
    end = re.compile(r"(?:\|.*\n)+").match(text, start.end())
    rest = text[end.end() :] if end else ""
    versions = f"n8n {N8N_VERSION}, Node {NODE_VERSION}:\n\n"
    DOCUMENT.write_text(f"{text[: start.start()]}{versions}{as_table(outcomes)}\n{rest}")
