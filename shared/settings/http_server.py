"""Settings of the HTTP server: addresses, authentication and limits."""

import re
from ipaddress import ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from shared.access.api_keys import ApiKey, parse_api_keys
from shared.errors import ConfigurationError
from shared.settings.groups import Group


def split_commas(value: object) -> object:
    """Split a comma-separated setting into its entries."""
    if isinstance(value, str):
        return [entry.strip() for entry in value.split(",") if entry.strip()]
    return value


def is_loopback(host: str) -> bool:
    """Whether a host name or address is reachable from this machine only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _api_keys(value: object) -> object:
    return parse_api_keys(value) if isinstance(value, str) else value


def _ascii_host(name: str) -> str:
    """As clients send it (RFC 5890), or unchanged if there is no such form."""
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return name


def http_url(value: str) -> str:
    try:
        url = urlsplit(value)
        is_valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        is_valid = False
    if not value.isascii() and is_valid:
        value = url._replace(netloc=_ascii_host(url.netloc)).geturl()
        if not value.isascii():
            raise ValueError("must have a path of letters, digits and other ASCII characters")
    if value and not (is_valid and re.fullmatch(r"[^\s@?#]+", value)):
        raise ValueError("must be an http or https URL without a login and a query, such as https://images.example.com")
    return value.rstrip("/")


def _origin(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:\d{1,5})?", value):
        raise ValueError("each entry must be an origin such as https://app.example.com")
    return value


def _host(value: str) -> str:
    host = _ascii_host(value.lower())
    if not re.fullmatch(r"\*|(\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\]", host):
        raise ValueError(
            "each entry must be a host name without port, *.example.com for all subdomains, or * for any host"
        )
    return host.removesuffix(".")


def _listening_host(value: str) -> str:
    host = value.strip().removeprefix("[").removesuffix("]")
    if re.search(r"[/@\s]", host) or re.fullmatch(r"[^:]*:\d*", host):
        raise ValueError(
            "must be a plain address or host name, such as 127.0.0.1, 0.0.0.0 or ::1; the port goes into SD_PORT"
        )
    return host


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError:
        raise ValueError("each entry must be an IP address or a network such as 172.16.0.0/12") from None


class HttpServerSettings(BaseModel):
    """Where the API listens, who may use it, and how much traffic it accepts."""

    host: Annotated[str, Group.START, AfterValidator(_listening_host)] = "127.0.0.1"
    """Address that the API listens on. 0.0.0.0 (or :: for IPv6) opens it to every network and requires SD_API_KEY."""
    port: Annotated[int, Group.START, Field(ge=1, le=65_535)] = 7860
    """Port of the API."""
    public_url: Annotated[str, Group.START, AfterValidator(http_url)] = ""
    """URL of the API for clients, if it is behind a reverse proxy; links use it. It may have a path, such as
    https://example.com/imagegen. If empty, links use the URL of the request."""
    published_on: Annotated[str, Group.NETWORK, AfterValidator(_listening_host)] = ""
    """Address that a container is published on, if that is not SD_HOST; compose.yaml sets it."""
    api_key: Annotated[tuple[ApiKey, ...], Group.START, BeforeValidator(_api_keys)] = ()
    """API keys, comma-separated, each `key`, `name:key` or `name:key:scope`. Jobs belong to the name. Scopes: read;
    write (the default: read, create and cancel jobs); priority (write, and `priority: high`); admin (everything: jobs
    of all names, and /metrics); metrics (only /metrics). A key has at least 16 characters; `openssl rand -hex 24`
    generates one. Clients send it as X-API-Key, as Authorization: Bearer, or as the password of HTTP Basic. If empty,
    no key is required."""
    allow_open: Annotated[bool, Group.NETWORK] = False
    """Allow the service to listen on the network without API keys."""
    allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_host)], ...], Group.NETWORK, BeforeValidator(split_commas)
    ] = ()
    """Host names that clients may use in addition to loopback names and the host of SD_PUBLIC_URL, comma-separated.
    *.example.com means all subdomains, * any host. If empty: IP addresses, names without a dot, and names that end in
    .internal, .local, .localhost or .home.arpa."""
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_origin)], ...], Group.NETWORK, BeforeValidator(split_commas)
    ] = ()
    """Origins of web pages that may call the API (CORS), comma-separated, such as https://app.example.com. If empty,
    only pages of the API itself may."""
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...], Group.NETWORK, BeforeValidator(split_commas)
    ] = ()
    """Reverse proxies whose X-Forwarded-For, -Proto, -Host and -Prefix are trusted: IP addresses or networks,
    comma-separated. If empty, no proxy is trusted."""
    requests_per_second: Annotated[float, Group.TRAFFIC_LIMITS, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 500
    """Sustained request rate per API key, or per client address (/64 network for IPv6) if no keys are set; excess
    requests get 429. An input image to fetch counts as ten requests, each megabyte of a body as one more. A request
    with a wrong key counts as ten requests of its address. 0 means no limit."""
    request_burst: Annotated[int, Group.TRAFFIC_LIMITS, Field(ge=1, le=1_000_000)] = 1000
    """Requests allowed in a burst before SD_REQUESTS_PER_SECOND applies."""
    max_jobs_per_key: Annotated[int, Group.JOB_LIMITS, Field(ge=0)] = 500
    """Maximum queued and running jobs per API key; excess jobs get 429. 0 means no limit."""
    max_event_streams: Annotated[int, Group.TRAFFIC_LIMITS, Field(ge=1)] = 200
    """Maximum open event streams per API key, or per client address if no keys are set, in each API process. As many
    calls may wait for a job that an earlier call created."""
    max_connections: Annotated[int, Group.TRAFFIC_LIMITS, Field(ge=1)] = 4096
    """Maximum open connections per API process; less if the process may open fewer files. At the limit, the connection
    that has been idle longest is closed; if none is idle, a new connection gets 503."""
    max_connections_per_address: Annotated[int, Group.TRAFFIC_LIMITS, Field(ge=1)] = 512
    """Maximum open connections per client address (/64 network for IPv6), at most half of SD_MAX_CONNECTIONS.
    SD_TRUSTED_PROXIES are exempt."""
    max_header_bytes: Annotated[int, Group.TRAFFIC_LIMITS, Field(ge=1024, le=1_048_576)] = 65_536
    """Maximum size of a request's URL and headers; larger requests get 431."""
    header_timeout_seconds: Annotated[float, Group.TRAFFIC_LIMITS, Field(gt=0, le=600)] = 10
    """How long a client may take to send the headers of a request; slower ones get 408."""
    body_timeout_seconds: Annotated[float, Group.TRAFFIC_LIMITS, Field(gt=0, le=600)] = 20
    """How long a client may take to send a body, plus one second for every 16 KB of it; slower ones get 408."""
    access_log: Annotated[bool, Group.OPERATIONS] = False
    """Log each request: method, path without its query, status, duration, and the reason of an error."""

    @property
    def reachable_address(self) -> str:
        """The address that decides who can reach the service."""
        return self.published_on or self.host

    def require_keys(self) -> None:
        """Raises ConfigurationError if the service is open to the network without keys and SD_ALLOW_OPEN is false."""
        if not (self.api_key or self.allow_open or is_loopback(self.reachable_address)):
            raise ConfigurationError(
                f"SD_API_KEY is empty, and SD_HOST={self.reachable_address} opens the service to the network: set a "
                "key, or SD_ALLOW_OPEN=true if that is what you want."
            )
