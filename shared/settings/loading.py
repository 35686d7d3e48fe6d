"""Read the settings of a process from its environment and from `.env`."""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import ConfigurationError
from shared.settings import env_file
from shared.settings.explanations import explain
from shared.settings.service import PREFIX, Settings

#: Set for processes that `imagegen up` starts, which has already warned about unknown settings.
SUPERVISED_VARIABLE = "IMAGEGEN_SUPERVISED"

S = TypeVar("S", bound=BaseModel)


def load(family: type[S]) -> S:
    """Read the settings of a process. Raises ConfigurationError, which names the variable and never its value."""
    from_file = env_file.read()
    for name, value in from_file.items():
        # The library that accesses buckets reads these variables itself, and does not read `.env`.
        if name.startswith("AWS_"):
            os.environ.setdefault(name, value)
    # The environment overrides `.env`; an empty variable counts as absent.
    texts = _settings_in(from_file) | _settings_in(os.environ)
    fields: dict[str, Any] = {field: texts[name] for field in family.model_fields if (name := variable(field)) in texts}
    for field, text in fields.items():
        # Pydantic reads 10.000, ten thousand in many countries, as 10.
        if family.model_fields[field].annotation is int and "." in text:
            raise ConfigurationError(f"{variable(field)} is wrong: must be a whole number.")
    try:
        return family(**fields)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = variable(str(first["loc"][0])) if first["loc"] else "The settings"
        raise ConfigurationError(f"{name} is wrong: {explain(first)}.") from None


def variable(field: str) -> str:
    """The name of the environment variable of a setting."""
    return f"{PREFIX}{field}".upper()


def _settings_in(variables: Mapping[str, str]) -> dict[str, str]:
    texts = {name.upper(): _unquoted(value) for name, value in variables.items() if name.upper().startswith(PREFIX)}
    return {name: text for name, text in texts.items() if text}


def _unquoted(value: str) -> str:
    """Without the line break at the end of a file with a secret, and the quotes that `docker run --env-file` keeps."""
    text = value.strip()
    return text[1:-1].strip() if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def setting_warnings(settings: Settings) -> list[str]:
    """One sentence for each setting that is valid and has no effect, or hardly the one that was meant.

    Raises ConfigurationError.
    """
    return [*_unknown_setting_warnings(), *settings.warnings()]


def _unknown_setting_warnings() -> list[str]:
    """One sentence for each variable that looks like a setting but is not one. Raises ConfigurationError."""
    # Imported here: few processes need the settings of all.
    from shared.settings.launcher import LauncherSettings

    known = [variable(field) for field in LauncherSettings.model_fields]
    names = {name for name in (*os.environ, *env_file.read()) if name.upper().startswith(PREFIX)}
    return [_unknown_setting(name, known) for name in sorted(names) if name.upper() not in known]


def _unknown_setting(name: str, known: Sequence[str]) -> str:
    matches = get_close_matches(name.upper(), known, n=1, cutoff=0.75)
    hint = f"did you mean {matches[0]}?" if matches else "docs/configuration.md lists all"
    return f"{name} is not a setting and has no effect ({hint})."
