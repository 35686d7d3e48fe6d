"""What a check finds."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Works, but not as well as it could, or not for long."""
    PROBLEM = "problem"
    """Something does not work."""


@dataclass(frozen=True)
class Finding:
    level: Level
    detail: str
    remedy: str = ""
    """What to do about it; empty where all is well."""


def ok(detail: str) -> Finding:
    return Finding(Level.OK, detail)


def warning(detail: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, detail, remedy)


def problem(detail: str, remedy: str) -> Finding:
    return Finding(Level.PROBLEM, detail, remedy)
