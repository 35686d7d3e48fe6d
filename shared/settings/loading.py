"""Read the settings of a process from its environment and from `.env`."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from shared.errors import ConfigurationError
from shared.settings import env_file
from shared.settings.explanations import explain
from shared.settings.service import PREFIX

#: Set for processes that `imagegen up` starts, which has already warned about unknown settings.
SUPERVISED_VARIABLE = "IMAGEGEN_SUPERVISED"

S = TypeVar("S", bound=BaseSettings)


def load(family: type[S]) -> S:
    """Read the settings of a process. Raises ConfigurationError, which names the variable and never its value."""
    from_file = env_file.read()
    for name, value in from_file.items():
        # The library that accesses buckets reads these variables itself, and does not read `.env`.
        if name.startswith("AWS_"):
            os.environ.setdefault(name, value)
    # The environment overrides `.env`.
    in_environment = {name.upper() for name, value in os.environ.items() if value}
    defaults = {name.upper(): value for name, value in from_file.items() if name.upper() not in in_environment}
    fields: dict[str, Any] = {
        field: defaults[name] for field in family.model_fields if (name := f"{PREFIX}{field}".upper()) in defaults
    }
    try:
        return family(**fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else "The settings"
        raise ConfigurationError(f"{name} is wrong: {explain(first)}.") from None


def unknown_setting_warnings() -> list[str]:
    """One sentence for each variable that looks like a setting but is not one. Raises ConfigurationError."""
    # Imported here: few processes need the settings of all.
    from shared.settings.launcher import LauncherSettings

    known = [f"{PREFIX}{field}".upper() for field in LauncherSettings.model_fields]
    names = {name for name in (*os.environ, *env_file.read()) if name.upper().startswith(PREFIX)}
    return [_unknown_setting(name, known) for name in sorted(names) if name.upper() not in known]


def _unknown_setting(name: str, known: Sequence[str]) -> str:
    matches = get_close_matches(name.upper(), known, n=1, cutoff=0.75)
    hint = f"did you mean {matches[0]}?" if matches else "docs/configuration.md lists all"
    return f"{name} is not a setting and has no effect ({hint})."
