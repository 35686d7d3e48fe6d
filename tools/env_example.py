"""Print .env.example: every setting with its description and its default, from shared.settings."""

import textwrap
from collections.abc import Iterator, Sequence

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared.jobs.types import field_docstrings
from shared.settings.groups import Group
from shared.settings.launcher import LauncherSettings
from shared.settings.loading import variable

#: Variables of the library that accesses the bucket of SD_OUTPUT_URL: name and description.
BUCKETS = (
    ("AWS_ENDPOINT_URL", "URL of the storage service, such as https://minio.example.com. If empty, AWS."),
    ("AWS_REGION", "Region of the bucket. If empty, us-east-1."),
    ("AWS_ACCESS_KEY_ID", "Access key. If empty, the role of the machine, container or service account is used."),
    ("AWS_SECRET_ACCESS_KEY", "Secret of AWS_ACCESS_KEY_ID."),
    ("AWS_SESSION_TOKEN", "Session token, if the access key is temporary."),
)

#: Variables of OpenTelemetry's library, which reads them from the environment only: name and description.
TRACES = (
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "URL that traces are sent to, such as http://localhost:4318. If empty, none are."),
    ("OTEL_EXPORTER_OTLP_HEADERS", "Headers for the collector, such as authorization=Bearer%20..."),
    ("OTEL_TRACES_SAMPLER", "Sampler of traces, such as parentbased_traceidratio. If empty, all are sent."),
    ("OTEL_TRACES_SAMPLER_ARG", "Argument of the sampler, such as 0.1 for one trace in ten."),
)

#: Variables of Docker Compose, which no process reads: name, description, value, whether .env.example sets it.
COMPOSE = (
    (
        "COMPOSE_FILE",
        "The stack and its overlays, joined by colons: compose/nvidia.yaml, compose/join-network.yaml, "
        "compose/other-redis.yaml, compose/monitoring.yaml. See docs/docker.md.",
        "compose.yaml",
        False,
    ),
    (
        "COMPOSE_PROJECT_NAME",
        "Prefix of container and volume names; another name means other volumes. If empty, the name of the folder.",
        "",
        False,
    ),
    ("COMPOSE_PROFILES", "What `docker compose up` starts: sd, flux-local, flux-api, monitoring.", "sd", True),
    ("REDIS_PASSWORD", "Password of the bundled Redis: letters and digits.", "queuepassword", False),
    ("REDIS_IMAGE", "Image of the bundled Redis, to pin a digest.", "valkey/valkey:9-alpine", False),
    ("REDIS_MEMORY", "Memory limit of the bundled Redis; above two thirds of it, jobs are refused.", "1g", False),
    ("WORKER_MEMORY", "Memory limit of a worker with a local model, such as 16g. 0 means no limit.", "0", False),
    (
        "API_CONTAINER_NAME",
        "Name of the API's container. Set it to nothing to run several: `--scale stable-diffusion=2`, with as many "
        "ports, such as SD_PORT=7860-7861.",
        "iti-image-generation",
        False,
    ),
    ("HF_ENDPOINT", "Mirror of Hugging Face that models are downloaded from.", "", False),
    ("HF_HUB_OFFLINE", "1 forbids downloads from Hugging Face.", "", False),
    (
        "HTTPS_PROXY",
        "Proxy for downloads of models, buckets and the API of Black Forest Labs, such as http://proxy:3128. "
        "Webhooks and images use SD_EGRESS_PROXY.",
        "",
        False,
    ),
    ("NO_PROXY", "Hosts that are reached without HTTPS_PROXY, such as minio.internal,.example.com.", "", False),
    ("JOIN_NETWORK", "Docker network that compose/join-network.yaml joins.", "", False),
    (
        "MONITORING_KEY",
        "Key of SD_API_KEY for the Prometheus of compose/monitoring.yaml; the scope metrics is enough.",
        "",
        False,
    ),
    ("GRAFANA_PASSWORD", "Password of the user admin in the Grafana of compose/monitoring.yaml.", "", False),
    ("GRAFANA_PORT", "Port of Grafana on SD_HOST.", "3000", False),
    (
        "TORCH_INDEX",
        "Package index that the build installs PyTorch from; compose/nvidia.yaml uses the one for GPUs.",
        "https://download.pytorch.org/whl/cpu",
        False,
    ),
)


def settings() -> Iterator[tuple[Group, list[tuple[str, FieldInfo, str]]]]:
    """The settings of each group, with their names and descriptions."""
    fields, descriptions = LauncherSettings.model_fields, field_docstrings(LauncherSettings)
    for group in Group:
        names = [name for name, field in fields.items() if group in field.metadata]
        yield group, [(name, fields[name], descriptions[name]) for name in names]


def default_text(field: FieldInfo) -> str:
    """The default of a setting as `.env` would have it."""
    default = field.default
    if default is None or default is PydanticUndefined or default == {}:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def render() -> str:
    lines = ["# Settings of imagegen. Copy this file to .env and change what you need; every line is optional."]
    for group, fields in settings():
        entries = [(f"#{variable(name)}", text, default_text(field)) for name, field, text in fields]
        lines += _section(group, entries)
    lines += _section("Store images in a bucket (AWS variables)", [(f"#{name}", text, "") for name, text in BUCKETS])
    lines += _section("Trace requests (docs/monitoring.md)", [(f"#{name}", text, "") for name, text in TRACES])
    lines += _section(
        "Run with Docker Compose",
        [(f"{'' if is_set else '#'}{name}", text, value) for name, text, value, is_set in COMPOSE],
    )
    return "\n".join(lines) + "\n"


def _section(title: str, entries: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    yield from ("", f"## {title}")
    for name, text, value in entries:
        yield ""
        yield from textwrap.wrap(text, 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        yield f"{name}={value}"


if __name__ == "__main__":
    print(render(), end="")
