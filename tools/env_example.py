"""Prints .env.example: every setting with its sentence and its default, as shared.settings has them."""

import textwrap

from pydantic_core import PydanticUndefined

from shared.settings import (
    PREFIX,
    ApiSettings,
    DoorSettings,
    HousekeeperSettings,
    LauncherSettings,
    Settings,
    WorkerSettings,
)

SECTIONS = {
    "Everything": Settings,
    "Doors": DoorSettings,
    "API": ApiSettings,
    "Workers": WorkerSettings,
    "Housekeeper": HousekeeperSettings,
    "imagegen up": LauncherSettings,
}


def render() -> str:
    lines = ["# Settings of imagegen. Copy this file to .env and change what you need; every line is optional."]
    seen: set[str] = set()
    for title, family in SECTIONS.items():
        lines += ["", f"## {title}"]
        for name, field in family.model_fields.items():
            if name in seen:
                continue
            seen.add(name)
            lines += ["", *textwrap.wrap(field.description or "", 110, initial_indent="# ", subsequent_indent="# ")]
            lines.append(f"#{PREFIX}{name.upper()}={_text(field.default)}")
    return "\n".join(lines) + "\n"


def _text(default: object) -> str:
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


if __name__ == "__main__":
    print(render(), end="")
