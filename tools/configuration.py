"""Print docs/configuration.md: every setting with its default, its values and its description."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from shared.settings.api import ApiSettings
from shared.settings.groups import Group
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import variable
from shared.settings.worker import WorkerSettings
from tools.env_example import BUCKETS, COMPOSE, TRACES, default_text, settings

HEAD = """# Settings

Set environment variables, or write the settings to a file `.env` in the folder that you start the service in; copy
[.env.example](../.env.example) to begin. The environment overrides `.env`. Every setting is optional. An invalid value
stops the process with a message that names the setting. Changes apply from the next start. `imagegen doctor` checks
that the settings work on this machine.

The column *read by* names the processes that need a setting; `imagegen up` reads all of them. Processes of one
installation need the same values.

`make fix` generates this page from `shared/settings/`.
"""

PROCESSES: Mapping[str, type[BaseModel]] = {
    "API": ApiSettings,
    "worker": WorkerSettings,
    "housekeeper": HousekeeperSettings,
}

NOTES = {
    Group.START: "The ten most used settings.",
    Group.MODELS: "See [backends.md](backends.md).",
    Group.NETWORK: "See [security.md](security.md).",
    Group.TRAFFIC_LIMITS: "See [security.md](security.md).",
    Group.STORAGE: "See [operations.md](operations.md).",
    Group.WEBHOOKS: "See [webhooks.md](webhooks.md).",
    Group.CLOUD: "See [backends.md](backends.md).",
    Group.PERFORMANCE: "See [performance.md](performance.md).",
    Group.OPERATIONS: "See [operations.md](operations.md).",
    Group.REDIS: "See [scaling.md](scaling.md).",
}
BUCKETS_NOTE = "The API, the workers and the housekeeper pass these to the library that accesses `SD_OUTPUT_URL`."
TRACES_NOTE = (
    "OpenTelemetry's library reads these in the API, the workers and the housekeeper, from the environment and not "
    "from `.env`; `compose.yaml` passes them on. See [monitoring.md](monitoring.md)."
)
COMPOSE_NOTE = "Only Docker Compose reads these from `.env`. See [docker.md](docker.md)."


def render() -> str:
    schema = LauncherSettings.model_json_schema()
    lines = [HEAD]
    for group, fields in settings():
        lines += [f"## {group}\n", *([NOTES[group], ""] if group in NOTES else [])]
        lines += ["| setting | default | values | read by | |", "|---|---|---|---|---|"]
        for name, field, text in fields:
            values = _values(schema["properties"][name], schema["$defs"])
            lines.append(_row(variable(name), default_text(field), values, _readers(name), text))
        lines.append("")
    lines += ["## Store images in a bucket\n", BUCKETS_NOTE, "", "| variable | |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in BUCKETS]
    lines += ["", "## Trace requests\n", TRACES_NOTE, "", "| variable | |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in TRACES]
    lines += ["", "## Run with Docker Compose\n", COMPOSE_NOTE, "", "| variable | default | |", "|---|---|---|"]
    lines += [_row(name, value, text) for name, text, value, _ in COMPOSE]
    return "\n".join(lines) + "\n"


def _row(name: str, default: str, *cells: str) -> str:
    code = f"`{default}`" if default else ""
    escaped = (" ".join(cell.split()).replace("|", "\\|").replace("*", "\\*") for cell in cells)
    return f"| `{name}` | {' | '.join((code, *escaped))} |"


def _readers(name: str) -> str:
    readers = [process for process, family in PROCESSES.items() if name in family.model_fields]
    return "all" if len(readers) == len(PROCESSES) else ", ".join(readers) or "`imagegen up`"


def _values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """The values of a setting, from its JSON schema."""
    if "anyOf" in field:
        return _values(field["anyOf"][0], definitions)
    if "$ref" in field:
        return _values(definitions[field["$ref"].rpartition("/")[2]], definitions)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    match field["type"]:
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number":
            return _range(field)
        case "array":
            return "list"
        case "string":
            return {"password": "secret", "path": "path", "file-path": "path"}.get(field.get("format", ""), "text")
        case other:
            return str(other)


def _range(field: Mapping[str, Any]) -> str:
    minimum, maximum = field.get("minimum"), field.get("maximum")
    start = f"{minimum:.10g}" if minimum is not None else f"more than {field['exclusiveMinimum']:g}"
    return f"{start} to {maximum:.10g}" if maximum is not None else f"{start} or more"


if __name__ == "__main__":
    print(render(), end="")
