"""Settings that every process needs."""

import os
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr

from shared.errors import ConfigurationError
from shared.jobs.types import Backend
from shared.models.bfl import DEFAULT_MODEL, MODELS
from shared.net.allowlist import AllowlistEntry
from shared.net.egress_proxy import EgressProxy
from shared.observability import logs
from shared.settings.groups import Group
from shared.settings.http_server import split_commas
from shared.settings.infrastructure import InfrastructureSettings

PREFIX = "SD_"


def header_key(value: SecretStr) -> SecretStr:
    # An HTTP client would quote a key that is not a valid header value in its error.
    key = value.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("must be visible ASCII characters without spaces")
    return SecretStr(key)


def _allowlist_entry(value: str) -> str:
    entry = AllowlistEntry.parse(value)
    return entry.origin + entry.path


def _proxy(value: SecretStr) -> SecretStr:
    EgressProxy.parse(value.get_secret_value())
    return value


def _backends(value: object) -> object:
    names = split_commas(value)
    known = [str(backend) for backend in Backend]
    for name in names if isinstance(value, str) and isinstance(names, list) else ():
        if name not in known:
            matches = get_close_matches(name.lower().replace("_", "-"), known, n=1)
            hint = f" (did you mean {matches[0]}?)" if matches else ""
            raise ValueError(f"each entry must be one of {', '.join(known)}{hint}")
    return names


def _bfl_model(value: str) -> str:
    if value not in MODELS:
        raise ValueError(f"must be one of {', '.join(MODELS)}")
    return value


class Settings(InfrastructureSettings):
    """Settings that every process needs."""

    # Built when they are first read: a process reads one class of several.
    model_config = ConfigDict(
        extra="ignore", frozen=True, hide_input_in_errors=True, validate_default=True, defer_build=True
    )

    backends: Annotated[tuple[Backend, ...], Group.START, BeforeValidator(_backends), Field(min_length=1)] = (
        Backend.SD,
    )
    """Backends to run, comma-separated: sd, flux-local, flux-api, or null, which draws test patterns without a model.
    `imagegen up` starts a worker for each."""
    bfl_api_key: Annotated[Annotated[SecretStr, AfterValidator(header_key)] | None, Group.START] = None
    """API key of Black Forest Labs (https://dashboard.bfl.ai) for flux-api."""
    bfl_default_model: Annotated[str, Group.CLOUD, AfterValidator(_bfl_model)] = DEFAULT_MODEL
    """Model of flux-api for requests without `bfl_model`."""
    commercial_only: Annotated[bool, Group.MODELS] = False
    """Refuse models whose licence does not allow commercial use, or is unknown, with `licence-forbidden`."""
    max_pixels: Annotated[int, Group.JOB_LIMITS, Field(ge=4096)] = 4_194_304
    """Maximum width x height of a generated image."""
    max_image_pixels: Annotated[int, Group.JOB_LIMITS, Field(ge=4096)] = 25_000_000
    """Maximum width x height of an input image."""
    job_timeout_seconds: Annotated[int, Group.JOB_LIMITS, Field(ge=1, le=86_400)] = 600
    """Maximum run time of a job; a longer job is stopped and fails with `timed-out`."""
    shutdown_grace_seconds: Annotated[int, Group.OPERATIONS, Field(ge=0, le=3600)] = 30
    """Grace period on SIGTERM before a worker requeues its running job."""
    job_retention_days: Annotated[int, Group.STORAGE, Field(ge=0)] = 7
    """Days to keep the records of finished jobs; 0 keeps them forever."""
    output_retention_days: Annotated[int, Group.STORAGE, Field(ge=0)] = 0
    """Days to keep images; 0 keeps them forever."""
    output_max_bytes: Annotated[int, Group.STORAGE, Field(ge=0)] = 0
    """Maximum total size of all images; the oldest are deleted first. 0 means no limit."""
    webhook_allow: Annotated[
        tuple[Annotated[str, AfterValidator(_allowlist_entry)], ...],
        Group.WEBHOOKS,
        BeforeValidator(split_commas),
    ] = ()
    """Hosts in your own network that webhooks may be sent to and input images fetched from, comma-separated. Each entry
    is an origin such as http://n8n:5678, or a path such as http://n8n:5678/webhook/images, which covers everything
    below it. All other hosts must be public and use port 80 or 443."""
    egress_proxy: Annotated[Annotated[SecretStr, AfterValidator(_proxy)] | None, Group.WEBHOOKS] = None
    """Proxy for sending webhooks and fetching images, both input images and those of Black Forest Labs, such as
    http://proxy:3128 or http://user:password@proxy:3128. It must support CONNECT to ports 80 and 443, resolve host
    names and refuse private addresses. Hosts of SD_WEBHOOK_ALLOW at private addresses are reached directly, and all
    hosts if this is empty."""
    alive_file: Annotated[Path | None, Group.OPERATIONS] = None
    """File that a worker or housekeeper touches every two seconds while it is healthy, for health checks of
    containers."""
    log_format: Annotated[logs.LogFormat, Group.OPERATIONS] = "text"
    """Format of a log entry: a line of text or a JSON object."""

    def warnings(self) -> Iterator[str]:
        """One sentence for each value that is valid, but hardly what was meant."""
        yield from ()

    def require_alive_file(self) -> None:
        """Raises ConfigurationError if the file cannot be written. Does not touch it, which would mean health."""
        if (file := self.alive_file) is None:
            return
        folder = file.absolute().parent
        if file.is_dir() or not folder.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise ConfigurationError(
                f"SD_ALIVE_FILE={file} cannot be written: name a file in a folder that exists and that this user may "
                "write to."
            )

    @property
    def parsed_egress_proxy(self) -> EgressProxy | None:
        return EgressProxy.parse(self.egress_proxy.get_secret_value()) if self.egress_proxy else None
