"""Prints docs/configuration.md: every setting with its default, its values and its sentence."""

from collections.abc import Mapping
from typing import Any

from shared.settings.launcher import LauncherSettings
from tools.env_example import BUCKETS, COMPOSE, TRACES, settings, variable, written

HEAD = """# Settings

Through the environment, or in a file `.env` in the folder in which the service is started; the environment counts
first. [.env.example](../.env.example) is such a file to begin with. A wrong value stops the process with a sentence
that names the setting. A changed one counts from the next start. `imagegen doctor` looks at what follows from them.

This page is written by `make fix` from what the code says (`shared/settings/`).
"""

SECTIONS = {
    "Everything": "Read by every process; all processes of an installation need the same.",
    "Doors": "Read by the API and `imagegen up`. [security.md](security.md) has more of them.",
    "API": "Read by the API.",
    "Workers": "Read by the workers. [backends.md](backends.md) has more of them.",
    "Housekeeper": "Read by the housekeeper. [webhooks.md](webhooks.md) has more of them.",
    "imagegen up": "Read by `imagegen` on the command line, which also reads all those above.",
}
BUCKETS_NOTE = (
    "Read by the library that reaches the bucket of `SD_OUTPUT_URL`, in the API, the workers and the housekeeper."
)
TRACES_NOTE = (
    "Read by OpenTelemetry's library in the API, the workers and the housekeeper, from the environment and not from "
    "`.env`; `compose.yaml` passes them on. [monitoring.md](monitoring.md) has more of them."
)
COMPOSE_NOTE = "Read by Docker Compose and no process. [docker.md](docker.md) has more of them."


def render() -> str:
    schema = LauncherSettings.model_json_schema()
    lines = [HEAD]
    for title, fields in settings():
        lines += [f"## {title}\n", SECTIONS[title], "", "| setting | default | values | |", "|---|---|---|---|"]
        for name, field in fields:
            values = _values(schema["properties"][name], schema["$defs"])
            lines.append(_row(variable(name), written(field.default), values, field.description or ""))
        lines.append("")
    lines += ["## Buckets\n", BUCKETS_NOTE, "", "| variable | |", "|---|---|"]
    lines += [f"| `{name}` | {sentence} |" for name, sentence in BUCKETS]
    lines += ["", "## Traces\n", TRACES_NOTE, "", "| variable | |", "|---|---|"]
    lines += [f"| `{name}` | {sentence} |" for name, sentence in TRACES]
    lines += ["", "## Docker Compose\n", COMPOSE_NOTE, "", "| variable | default | |", "|---|---|---|"]
    lines += [_row(name, value, sentence) for name, sentence, value, _ in COMPOSE]
    return "\n".join(lines) + "\n"


def _row(name: str, default: str, *cells: str) -> str:
    code = f"`{default}`" if default else ""
    told = (" ".join(cell.split()).replace("|", "\\|").replace("*", "\\*") for cell in cells)
    return f"| `{name}` | {' | '.join((code, *told))} |"


def _values(field: Mapping[str, Any], shared: Mapping[str, Any]) -> str:
    """From the JSON schema of the setting."""
    if "anyOf" in field:
        return _values(field["anyOf"][0], shared)
    if "$ref" in field:
        return _values(shared[field["$ref"].rpartition("/")[2]], shared)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    match field["type"]:
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number":
            return _range(field)
        case "array":
            return "a list"
        case "string":
            return {"password": "a secret", "path": "a folder"}.get(field.get("format", ""), "text")
        case other:
            return str(other)


def _range(field: Mapping[str, Any]) -> str:
    least, most = field.get("minimum"), field.get("maximum")
    begin = f"{least:g}" if least is not None else f"more than {field['exclusiveMinimum']:g}"
    return f"{begin} to {most:.10g}" if most is not None else f"{begin} or more"


if __name__ == "__main__":
    print(render(), end="")
