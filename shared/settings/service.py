"""Settings that every process of the service needs."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode, SettingsConfigDict

from shared.jobs.requests import Backend
from shared.models.bfl import DEFAULT_MODEL, MODELS
from shared.net.allowlist import AllowlistEntry
from shared.net.egress_proxy import EgressProxy
from shared.observability import logs
from shared.settings.http_server import split_commas
from shared.settings.infrastructure import InfrastructureSettings

PREFIX = "SD_"


def _key(value: SecretStr) -> SecretStr:
    # What cannot stand in a header would be quoted in the error of whoever puts it there.
    key = value.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("there are characters in it that no key has")
    return SecretStr(key)


def _receiver(value: str) -> str:
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
            near = get_close_matches(name.lower().replace("_", "-"), known, n=1)
            meant = f"; you may mean {near[0]}" if near else ""
            raise ValueError(f"an entry is none of {', '.join(known)}{meant}")
    return names


def _bfl_model(value: str) -> str:
    if value not in MODELS:
        raise ValueError(f"must be one of {', '.join(MODELS)}")
    return value


class Settings(InfrastructureSettings):
    """What every process needs."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    backends: Annotated[tuple[Backend, ...], NoDecode, BeforeValidator(_backends), Field(min_length=1)] = (Backend.SD,)
    """Engines of this installation, comma-separated: sd, flux-local, flux-api; null makes patterns without a model.
    `imagegen up` starts a worker for each."""
    bfl_api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None
    """Key of Black Forest Labs (https://dashboard.bfl.ai), for flux-api."""
    bfl_default_model: Annotated[str, AfterValidator(_bfl_model)] = DEFAULT_MODEL
    """Model of flux-api for requests without `bfl_model`."""
    max_pixels: Annotated[int, Field(ge=4096)] = 4_194_304
    """Largest width x height of an image."""
    max_image_pixels: Annotated[int, Field(ge=4096)] = 25_000_000
    """Largest width x height of an image that comes with a request."""
    job_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """A job that runs longer is stopped and fails with `timed-out`."""
    shutdown_grace_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """Grace period on SIGTERM, in which a worker may finish its job before the job is requeued."""
    job_retention_days: Annotated[int, Field(ge=0)] = 7
    """Records of finished jobs are kept so long; 0 keeps them."""
    output_retention_days: Annotated[int, Field(ge=0)] = 0
    """Images are kept so long; 0 keeps them."""
    output_max_bytes: Annotated[int, Field(ge=0)] = 0
    """Most that all images together may take, the oldest go first; 0 sets no limit."""
    webhook_allow: Annotated[
        tuple[Annotated[str, AfterValidator(_receiver)], ...], NoDecode, BeforeValidator(split_commas)
    ] = ()
    """Receivers in your own network, comma-separated, each an origin such as http://n8n:5678 or what lies below a path
    of it such as http://n8n:5678/webhook/images: webhooks may go there and images of requests may come from there.
    All others must be public, and on port 80 or 443."""
    egress_proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    """Proxy through which webhooks are sent and images of requests are fetched, such as http://proxy:3128 or
    http://user:password@proxy:3128, by CONNECT to ports 80 and 443. It looks names up, and has to refuse private
    addresses. Receivers of SD_WEBHOOK_ALLOW at private addresses are asked directly. Empty: all are."""
    alive_file: Path | None = None
    """File that a worker or housekeeper touches every two seconds while it serves, for health checks of containers."""
    log_format: logs.Format = "text"
    """One line of text or one JSON object per log entry."""

    @property
    def parsed_egress_proxy(self) -> EgressProxy | None:
        return EgressProxy.parse(self.egress_proxy.get_secret_value()) if self.egress_proxy else None


class LinkSettings(Settings):
    """What those need who tell where images are."""

    link_secret: Annotated[SecretStr, Field(min_length=16)] | None = None
    """What image links are signed with where keys are set. Empty: made once and kept in Redis."""
    link_lifetime_seconds: Annotated[int, Field(ge=1, le=31_536_000)] = 86_400
    """How long an image link works without a key."""
