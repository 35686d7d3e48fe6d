"""Reads the settings of a process from its environment and from `.env`."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from shared.errors import ConfigurationError
from shared.settings import env_file
from shared.settings.explanations import explain
from shared.settings.launcher import LauncherSettings
from shared.settings.service import PREFIX

#: In the environment of what `imagegen up` starts: it has warned of unknown settings already.
SUPERVISED_VARIABLE = "IMAGEGEN_SUPERVISED"

S = TypeVar("S", bound=BaseSettings)


def load(family: type[S]) -> S:
    """Read the settings. Raises ConfigurationError with one sentence that names the variable, never its value."""
    written = env_file.read()
    for name, value in written.items():
        # The library that reaches buckets reads these variables itself, and knows nothing of `.env`.
        if name.startswith("AWS_"):
            os.environ.setdefault(name, value)
    # What the environment has comes first.
    chosen = {name.upper() for name, value in os.environ.items() if value}
    own = {name.upper(): value for name, value in written.items() if name.upper() not in chosen}
    fields: dict[str, Any] = {
        field: own[name] for field in family.model_fields if (name := f"{PREFIX}{field}".upper()) in own
    }
    try:
        return family(**fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = f"{PREFIX}{first['loc'][0]}".upper() if first["loc"] else "The settings"
        raise ConfigurationError(f"{name} is wrong: {explain(first)}.") from None


def unknown_setting_warnings() -> list[str]:
    """A sentence for each variable that looks like a setting and is none. Raises ConfigurationError."""
    known = [f"{PREFIX}{field}".upper() for field in LauncherSettings.model_fields]
    strange = sorted({name for name in (*os.environ, *env_file.read()) if _is_own(name) and name.upper() not in known})
    return [f"{name} is no setting and has no effect{_meant(name.upper(), known)}." for name in strange]


def _is_own(name: str) -> bool:
    return name.upper().startswith(PREFIX)


def _meant(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.75)
    return f": you may mean {near[0]}" if near else ": docs/configuration.md lists them all"
