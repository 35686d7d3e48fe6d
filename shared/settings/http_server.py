"""Settings of the doors: where the API listens, whom it lets in, and how much it takes from each."""

import re
from ipaddress import ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.access.api_keys import ApiKey, parse_keys
from shared.errors import ConfigurationError


def split_commas(value: object) -> object:
    """The entries of a comma-separated setting."""
    if isinstance(value, str):
        return [entry.strip() for entry in value.split(",") if entry.strip()]
    return value


def is_loopback(host: str) -> bool:
    """Whether the host, a name or an address, is this machine and reachable from it alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _api_keys(value: object) -> object:
    return parse_keys(value) if isinstance(value, str) else value


def http_url(value: str) -> str:
    if value and (urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname):
        raise ValueError("must be an http or https address such as https://images.example.com")
    return value.rstrip("/")


def _site(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:\d{1,5})?", value):
        raise ValueError("each entry must be an origin as browsers name it, such as https://app.example.com")
    return value


def _host(value: str) -> str:
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\]", value.lower()):
        raise ValueError("each entry must be a host name without port, *.example.com for all below one, or * for any")
    return value.lower()


def _listening_host(value: str) -> str:
    host = value.strip().removeprefix("[").removesuffix("]")
    if re.search(r"[/@\s]", host) or re.fullmatch(r"[^:]*:\d*", host):
        raise ValueError("must be an address or a name alone, such as 127.0.0.1, 0.0.0.0 or ::1; the port is SD_PORT")
    return host


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("each entry must be an address or a network such as 172.16.0.0/12") from None


class HttpServerSettings(BaseSettings):
    """Where the API listens, whom it lets in, and how much it takes."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    host: Annotated[str, AfterValidator(_listening_host)] = "127.0.0.1"
    """Address the API listens on; 0.0.0.0 for every network, which needs SD_API_KEY."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 7860
    """Port of the API."""
    published_on: str = ""
    """Address at which others reach a container where that is not SD_HOST; compose.yaml sets it."""
    public_url: Annotated[str, AfterValidator(http_url)] = ""
    """Address that clients reach the API by, for links behind a proxy; it may have a path, such as
    https://example.com/imagegen. Empty: the request's own."""
    api_key: Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_api_keys)] = ()
    """Keys that open the service, comma-separated, each `key`, `name:key` or `name:key:scope`. Jobs belong to the name.
    Scopes: read (look), write (also make and cancel jobs; the default), priority (also `priority: high`), admin (also
    the jobs of every name, and /metrics), metrics (/metrics alone). A key has at least 16 characters;
    `openssl rand -hex 24` makes one. Clients send it as
    X-API-Key, as Authorization: Bearer, or as the password of HTTP Basic. Empty: no key is asked for."""
    allow_open: bool = False
    """Whether the service may be open to the network without any key."""
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_host)], ...], NoDecode, BeforeValidator(split_commas)
    ] = ()
    """Names that clients may call this service by, comma-separated, beside loopback's and that of SD_PUBLIC_URL;
    *.example.com is all below one, * any. Empty: addresses, names without a dot, and names that end in .internal,
    .local, .localhost or .home.arpa."""
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_site)], ...], NoDecode, BeforeValidator(split_commas)
    ] = ()
    """Web sites whose pages may use the service, comma-separated, each an origin such as https://app.example.com.
    Empty: none but its own."""
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(split_commas)
    ] = ()
    """Proxies whose X-Forwarded-For, -Proto, -Host and -Prefix are believed, comma-separated, each an address or a
    network. Empty: none."""
    requests_per_second: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 500
    """Requests that each key (each address, or IPv6 network of 64 bits, where no keys are set) may make for long; one
    more is answered 429. An image to fetch counts as ten, each megabyte of a body as one more, and so does each request
    with a wrong key as ten of its address. 0 sets no limit."""
    request_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Requests that may come at once before SD_REQUESTS_PER_SECOND counts."""
    max_jobs_per_key: Annotated[int, Field(ge=0)] = 500
    """Jobs of one key that may wait or run; one more is answered 429. 0 sets no limit of its own."""
    max_event_streams: Annotated[int, Field(ge=1)] = 200
    """Event streams that each key (each address where no keys are set) may have open in each API process."""
    max_connections: Annotated[int, Field(ge=1)] = 4096
    """Connections that may be open to each API process, fewer where it may open few files. At the limit the one that
    has been idle for longest is closed, and where none is, a new one is answered 503."""
    max_connections_per_address: Annotated[int, Field(ge=1)] = 512
    """The same of one address, or IPv6 network of 64 bits; half of SD_MAX_CONNECTIONS at most. SD_TRUSTED_PROXIES are
    not limited so."""
    max_header_bytes: Annotated[int, Field(ge=1024, le=1_048_576)] = 65_536
    """Largest head of a request, its address included; a larger one is answered 431."""
    header_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 10
    """How long a client may take to send the head of a request; then it is answered 408."""
    body_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 20
    """How long a client may take to send a body, and one second more for each 16 KB of it; then it is answered 408."""

    access_log: bool = False
    """Whether each request is logged: method, address without its query, status, time."""

    @property
    def reachable_address(self) -> str:
        """The address that decides who can come in."""
        return self.published_on or self.host

    def require_keys(self) -> None:
        """Raises ConfigurationError where everybody on the network could use the service and nobody said so."""
        if not (self.api_key or self.allow_open or is_loopback(self.reachable_address)):
            raise ConfigurationError(
                f"SD_API_KEY is empty, and SD_HOST={self.reachable_address} opens the service to the network: set a "
                "key, or SD_ALLOW_OPEN=true if that is what you want."
            )
