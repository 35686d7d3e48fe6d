"""Explain invalid values of settings to people who do not program, and what other values need."""

from collections.abc import Mapping
from typing import Any

_SENTENCES: Mapping[str, str] = {
    "empty": "must not be empty",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a number",
    "bool_parsing": "must be true or false",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "does not have the format that docs/configuration.md describes",
}


def explain(error: Mapping[str, Any]) -> str:
    """Explain one of pydantic's errors, without the value."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "too_short":
        # Also of secrets.
        kind = "string_too_short" if context["min_length"] > 1 else "empty"
    sentence = _SENTENCES.get(kind)
    if sentence is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return sentence.format(**context)


def install_command(extra: str) -> str:
    """Installs an extra of pyproject.toml, in the folder of the repository. Never by name: the package `imagegen` on
    PyPI is another project."""
    return f".venv/bin/python -m pip install -c constraints.txt -e '.[{extra}]'"
