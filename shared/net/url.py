"""Parse URLs strictly: a URL that parsers could read in two ways is rejected."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Self

from shared.errors import ForbiddenUrl

MAX_LENGTH = 2048
MAX_HOST = 253
#: No spaces, no control characters, only ASCII, and no backslash, which some parsers read as a slash.
_PLAIN = re.compile(r"[!-\[\]-~]*")
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<target>[/?][^#]*)?(#.*)?",
    re.IGNORECASE,
)
#: Public host names have no underscores, but names of containers do.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
#: If the last label is a number, some resolvers read the name as an IPv4 address in octal, hex or short form.
_NUMERIC_END = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
#: Names under these exist in one network only (RFC 6761, 6762, 8375, ICANN).
PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".home.arpa")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Url:
    scheme: str
    host: str
    """In lower case; an IPv6 address has no brackets."""
    port: int
    target: str
    """Path and query as written."""
    address: IPv4Address | IPv6Address | None
    """None if the host is a name."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ForbiddenUrl for everything but a plain absolute http or https URL. Uses no network."""
        if len(text) > MAX_LENGTH:
            raise ForbiddenUrl(f"The URL is longer than {MAX_LENGTH} characters.")
        if not _PLAIN.fullmatch(text):
            raise ForbiddenUrl(
                "The URL may contain only visible ASCII characters and no backslash: write an international host name "
                "as xn--… and percent-encode the rest."
            )
        match = _URL.fullmatch(text)
        if match is None:
            raise ForbiddenUrl("The URL must have the form http://host/path or https://host/path, without a login.")
        scheme, host = match["scheme"].lower(), match["host"].lower()
        port = int(match["port"] or DEFAULT_PORTS[scheme])
        if port > 65_535:
            raise ForbiddenUrl("The URL's port is out of range (1-65535).")
        address = _address(host)
        target = match["target"] or "/"
        return cls(scheme, str(address or host), port, target if target.startswith("/") else f"/{target}", address)

    @property
    def origin(self) -> str:
        """`scheme://host:port`, always with the port."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """None if the host is a name."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1])
        if _NUMERIC_END.fullmatch(host):
            return IPv4Address(host)
    except AddressValueError:
        raise ForbiddenUrl("The URL's host is neither a host name nor a complete IP address.") from None
    if len(host) > MAX_HOST or not _HOST_NAME.fullmatch(host):
        raise ForbiddenUrl("The URL's host is not a valid host name.")
    return None
