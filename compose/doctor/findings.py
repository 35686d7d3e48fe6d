"""What a check finds, and how bad it is."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, but slowly, or not for long."""
    PROBLEM = "problem"
    """Does not work."""


@dataclass(frozen=True)
class Finding:
    level: Level
    detail: str
    remedy: str = ""
    """What to do about it; empty when all is well."""


def ok(detail: str) -> Finding:
    return Finding(Level.OK, detail)


def warning(detail: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, detail, remedy)


def problem(detail: str, remedy: str) -> Finding:
    return Finding(Level.PROBLEM, detail, remedy)


def split_sentence(sentence: str) -> tuple[str, str]:
    """Detail and remedy of a message such as `X is wrong: set it to Y.`"""
    detail, _, remedy = sentence.partition(": ")
    return f"{detail.rstrip('.')}.", remedy[:1].upper() + remedy[1:]
