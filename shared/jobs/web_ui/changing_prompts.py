"""Approximates prompts that change between steps, or combine several prompts, by a single one.

In AUTOMATIC1111's web UI, `[from:to:when]` is one text until a step and another from there on, `[one|other]` takes
turns, and `AND` combines the predictions for several prompts. Here a prompt is the same at every step.
"""

import re
from collections.abc import Sequence

#: Longer prompts are refused later, so they are not parsed.
MAX_LENGTH = 4000
DEFAULT_STEPS = 20
_PIECE = re.compile(r"\\.|[\[\]]|[^\\\[\]]+|\\", re.DOTALL)
_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"\s*(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})\s*")
#: A prompt, and the weight after it.
_WEIGHT = re.compile(r"^(.*):\s*([+-]?\d{1,9}(?:\.\d{0,9})?)\s*$", re.DOTALL)


def unchanging(prompt: str, steps: int | None) -> tuple[str, tuple[str, ...]]:
    """The nearest prompt for so many steps, and warnings about what it leaves out."""
    if len(prompt) > MAX_LENGTH:
        return prompt, ()
    nearest, warnings = _resolve_brackets(prompt, steps or DEFAULT_STEPS), list[str]()
    if nearest != prompt:
        warnings.append(
            "prompts do not change between steps: of [from:to:when] the longer part is used, of [one|other] all"
        )
    if len(prompts := _AND.split(nearest)) > 1:
        nearest = ", ".join(filter(None, map(_weighted, prompts)))
        warnings.append("AND is read as a comma: the prompts become one")
    return nearest, tuple(warnings)


def _resolve_brackets(prompt: str, steps: int) -> str:
    open_: list[list[str]] = [[]]
    for piece in _PIECE.findall(prompt):
        if piece == "[":
            open_.append([])
        elif piece == "]" and len(open_) > 1:
            inner = "".join(open_.pop())
            open_[-1].append(_resolve(inner, steps))
        else:
            open_[-1].append(piece)
    # A bracket that is never closed is text.
    return "[".join("".join(pieces) for pieces in open_)


def _resolve(inner: str, steps: int) -> str:
    alternatives = _split(inner, "|")
    if len(alternatives) > 1:
        return " ".join(filter(None, map(str.strip, alternatives)))
    *texts, when = _split(inner, ":")
    if len(texts) not in (1, 2) or not (number := _NUMBER.fullmatch(when)):
        return f"[{inner}]"
    before, after = texts if len(texts) == 2 else ("", texts[0])
    # A number of steps, or below 1 and with a point a share of them.
    value = float(number[1])
    share = value if value < 1 or "." in number[1] else value / steps
    return before if share > 0.5 else after


def _split(text: str, separator: str) -> Sequence[str]:
    """At separators outside of round brackets, whose colons are weights."""
    parts, depth = [""], 0
    for character in text:
        depth = max(0, depth + (character == "(") - (character == ")"))
        if character == separator and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _weighted(prompt: str) -> str:
    found = _WEIGHT.match(prompt)
    if found is None:
        return prompt.strip()
    text = found[1].strip()
    return text if float(found[2]) == 1 or not text else f"({text}:{found[2]})"
