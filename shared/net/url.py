"""An address of the web, read in one way only. What could be read in two ways is no address here."""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Self

from shared.errors import ForbiddenUrl

MAX_LENGTH = 2048
MAX_HOST = 253
#: No blanks, no control characters, nothing beyond ASCII, and no backslash, which some parsers take for a slash.
_PLAIN = re.compile(r"[!-\[\]-~]*")
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<target>[/?][^#]*)?(#.*)?",
    re.IGNORECASE,
)
#: An underscore is in no name of the public net, but in names of containers.
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
#: Where the last label is a number, some resolvers take the whole for an IPv4 address in octal, hex, or short.
_NUMERIC_END = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Url:
    scheme: str
    host: str
    """In lower case; an IPv6 address without its brackets."""
    port: int
    target: str
    """Path and query, as they were written."""
    address: IPv4Address | IPv6Address | None
    """Where the host is no name."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ForbiddenUrl for all that is not plainly an absolute http or https address. Asks nobody."""
        if len(text) > MAX_LENGTH:
            raise ForbiddenUrl(f"The address is longer than {MAX_LENGTH} characters.")
        if not _PLAIN.fullmatch(text):
            raise ForbiddenUrl(
                "The address may hold visible ASCII characters alone, and no backslash: write a host of other letters "
                "as xn--…, and the rest in percent-encoding."
            )
        match = _URL.fullmatch(text)
        if match is None:
            raise ForbiddenUrl("The address must be http://host/path or https://host/path, with no login in it.")
        scheme, host = match["scheme"].lower(), match["host"].lower()
        port = int(match["port"] or _DEFAULT_PORTS[scheme])
        if port > 65_535:
            raise ForbiddenUrl("The address has a port that there is not.")
        address = _address(host)
        target = match["target"] or "/"
        return cls(scheme, str(address or host), port, target if target.startswith("/") else f"/{target}", address)

    @property
    def origin(self) -> str:
        """`scheme://host:port`, always with the port."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return f"{self.scheme}://{host}:{self.port}"


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """None for a name."""
    try:
        if host.startswith("["):
            return IPv6Address(host[1:-1])
        if _NUMERIC_END.fullmatch(host):
            return IPv4Address(host)
    except AddressValueError:
        raise ForbiddenUrl("The address has a host that is neither a name nor a whole IP address.") from None
    if len(host) > MAX_HOST or not _NAME.fullmatch(host):
        raise ForbiddenUrl("The address has a host that is no name.")
    return None
