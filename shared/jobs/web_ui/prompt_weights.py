"""Reads weights in prompts as AUTOMATIC1111's web UI does.

`(word)` weighs 1.1 times as much and `(word:1.3)` 1.3 times; `[word]` weighs 1.1 times less. After a backslash, a
bracket is text. `BREAK` begins a new section, which is encoded by itself.
"""

import re
from dataclasses import dataclass

#: Brackets without a number, and the limit of weights: beyond it, embeddings overflow in half precision.
ROUND, SQUARE, MAX_WEIGHT = 1.1, 1 / 1.1, 100.0
#: Open brackets of a kind that have an effect at a time; fifty already weigh 117. Bounds the work for a hostile prompt.
MAX_NESTING = 50
_PIECE = re.compile(
    r"""\\[()\[\]\\]            # an escaped bracket or backslash
    | :\s*+(?P<weight>[+-]?(?:\d++(?:\.\d*+)?+|\.\d++))\s*+\)
    | [^\\()\[\]:]++
    | .""",
    re.VERBOSE | re.DOTALL,
)
_BREAK = re.compile(r"\bBREAK\b")


@dataclass(frozen=True)
class WeightedText:
    text: str
    weight: float = 1.0


#: The texts between two BREAKs.
Section = tuple[WeightedText, ...]


class _Reader:
    def __init__(self) -> None:
        self._texts: list[str | None] = []
        """None for a BREAK."""
        self._weights: list[float] = []
        self._round: list[int] = []
        self._square: list[int] = []

    def read(self, prompt: str) -> None:
        for match in _PIECE.finditer(prompt):
            piece = match.group()
            if match["weight"] and self._round:
                self._close(self._round, max(-MAX_WEIGHT, min(float(match["weight"]), MAX_WEIGHT)))
            elif piece == "(":
                self._round.append(len(self._texts))
            elif piece == "[":
                self._square.append(len(self._texts))
            elif piece == ")" and self._round:
                self._close(self._round, ROUND)
            elif piece == "]" and self._square:
                self._close(self._square, SQUARE)
            elif len(piece) == 2 and piece[0] == "\\":
                self._add(piece[1])
            else:
                self._add_text(piece)
        # Unclosed brackets reach to the end.
        while self._round:
            self._close(self._round, ROUND)
        while self._square:
            self._close(self._square, SQUARE)

    def _close(self, opened: list[int], factor: float) -> None:
        start = opened.pop()
        if len(opened) < MAX_NESTING:
            for index in range(start, len(self._weights)):
                self._weights[index] *= factor

    def _add_text(self, text: str) -> None:
        parts = _BREAK.split(text)
        for number, part in enumerate(parts):
            if number:
                self._add(None)
            stripped = part.lstrip() if number else part
            self._add(stripped.rstrip() if number < len(parts) - 1 else stripped)

    def _add(self, text: str | None) -> None:
        if text != "":
            self._texts.append(text)
            self._weights.append(1.0)

    def sections(self) -> tuple[Section, ...]:
        sections: list[list[WeightedText]] = [[]]
        for text, weight in zip(self._texts, self._weights, strict=True):
            section, weight = sections[-1], max(-MAX_WEIGHT, min(weight, MAX_WEIGHT))
            if text is None:
                sections.append([])
            elif section and section[-1].weight == weight:
                section[-1] = WeightedText(section[-1].text + text, weight)
            else:
                section.append(WeightedText(text, weight))
        return tuple(map(tuple, sections))


def parse_weights(prompt: str) -> tuple[Section, ...]:
    """At least one section; an empty prompt is one without texts."""
    reader = _Reader()
    reader.read(prompt)
    return reader.sections()


def without_weights(prompt: str) -> str:
    """The text alone, for models that cannot weigh it."""
    sections = ("".join(part.text for part in section).strip() for section in parse_weights(prompt))
    return " ".join(section for section in sections if section)
