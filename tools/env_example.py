"""Prints .env.example: every setting with its sentence and its default, as shared.settings has them."""

import textwrap
from collections.abc import Iterator

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from shared.settings.api import ApiSettings
from shared.settings.housekeeper import HousekeeperSettings
from shared.settings.http_server import HttpServerSettings
from shared.settings.launcher import LauncherSettings
from shared.settings.service import PREFIX, Settings
from shared.settings.worker import WorkerSettings

SECTIONS: dict[str, type[BaseSettings]] = {
    "Everything": Settings,
    "Doors": HttpServerSettings,
    "API": ApiSettings,
    "Workers": WorkerSettings,
    "Housekeeper": HousekeeperSettings,
    "imagegen up": LauncherSettings,
}


#: What the library reads that reaches the bucket of SD_OUTPUT_URL: name and sentence.
BUCKETS = (
    ("AWS_ENDPOINT_URL", "Where the storage is that has the bucket, such as https://minio.example.com. Empty: AWS."),
    ("AWS_REGION", "Region of the bucket. Empty: us-east-1."),
    ("AWS_ACCESS_KEY_ID", "Who asks. Empty: the role that the machine, container or service account has."),
    ("AWS_SECRET_ACCESS_KEY", "Secret of AWS_ACCESS_KEY_ID."),
    ("AWS_SESSION_TOKEN", "Where the two above are for a while only."),
)

#: What OpenTelemetry's own library reads, from the environment alone: name and sentence.
TRACES = (
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "Where traces are sent, such as http://localhost:4318. Empty: nowhere."),
    ("OTEL_EXPORTER_OTLP_HEADERS", "What the collector wants to be told with them, such as authorization=Bearer%20..."),
    ("OTEL_TRACES_SAMPLER", "Which requests are traced, such as parentbased_traceidratio. Empty: all."),
    ("OTEL_TRACES_SAMPLER_ARG", "How many of them, such as 0.1."),
)

#: What Docker Compose reads and no process does: name, sentence, value, whether it is set in the example already.
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
        "Begins the names of containers and volumes, so another name has other volumes. Empty: the name of the folder.",
        "",
        False,
    ),
    ("COMPOSE_PROFILES", "What `docker compose up` starts: sd, flux-local, flux-api, monitoring.", "sd", True),
    ("REDIS_PASSWORD", "Password of the stack's own Redis; letters and digits.", "imagegen", False),
    ("REDIS_IMAGE", "Image of the stack's own Redis, for one with a digest.", "valkey/valkey:9-alpine", False),
    ("REDIS_MEMORY", "Most memory of the stack's own Redis; full at two thirds, it takes no more jobs.", "1g", False),
    (
        "WORKER_MEMORY",
        "Most memory of a worker with a model on this machine, such as 16g. 0 sets no limit.",
        "0",
        False,
    ),
    (
        "API_CONTAINER_NAME",
        "Name of the API's container. Set to nothing, there may be several: `--scale stable-diffusion=2`, with as many "
        "ports, such as SD_PORT=7860-7861.",
        "iti-image-generation",
        False,
    ),
    ("JOIN_NETWORK", "The network that compose/join-network.yaml joins.", "", False),
    (
        "MONITORING_KEY",
        "A key of SD_API_KEY for the Prometheus of compose/monitoring.yaml; one of scope metrics.",
        "",
        False,
    ),
    ("GRAFANA_PASSWORD", "Password of the user admin in the Grafana of compose/monitoring.yaml.", "", False),
    ("GRAFANA_PORT", "Port of that Grafana, on SD_HOST.", "3000", False),
    (
        "TORCH_INDEX",
        "Where the build takes PyTorch from, but compose/nvidia.yaml takes the one for GPUs.",
        "https://download.pytorch.org/whl/cpu",
        False,
    ),
)


def settings() -> Iterator[tuple[str, list[tuple[str, FieldInfo]]]]:
    """Per section, the settings that none before it has."""
    seen: set[str] = set()
    for title, family in SECTIONS.items():
        yield title, [(name, field) for name, field in family.model_fields.items() if name not in seen]
        seen |= set(family.model_fields)


def variable(name: str) -> str:
    return f"{PREFIX}{name}".upper()


def written(default: object) -> str:
    """As it would stand in .env."""
    if default is None or default is PydanticUndefined:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def render() -> str:
    lines = ["# Settings of imagegen. Copy this file to .env and change what you need; every line is optional."]
    for title, fields in settings():
        lines += ["", f"## {title}"]
        for name, field in fields:
            lines += ["", *_comment(field.description or ""), f"#{variable(name)}={written(field.default)}"]
    lines += ["", "## Buckets"]
    for name, sentence in BUCKETS:
        lines += ["", *_comment(sentence), f"#{name}="]
    lines += ["", "## Traces (docs/monitoring.md)"]
    for name, sentence in TRACES:
        lines += ["", *_comment(sentence), f"#{name}="]
    lines += ["", "## Docker Compose"]
    for name, sentence, value, is_set in COMPOSE:
        lines += ["", *_comment(sentence), f"{'' if is_set else '#'}{name}={value}"]
    return "\n".join(lines) + "\n"


def _comment(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, 110, initial_indent="# ", subsequent_indent="# ")


if __name__ == "__main__":
    print(render(), end="")
