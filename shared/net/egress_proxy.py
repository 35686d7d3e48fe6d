"""Open connections through the proxy that requests to foreign URLs leave the network by (SD_EGRESS_PROXY)."""

import base64
import re
import socket
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from shared.errors import ConnectionFailed, ForbiddenUrl
from shared.net.exchange_budget import ExchangeBudget
from shared.net.url import Url

_PROXY = re.compile(r"http://(?:(?P<login>[^@/]*:[^@/]*)@)?(?P<location>[^@/]+:[0-9]+)/?", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")
_MAX_HEAD_BYTES = 8 << 10
_INVALID = "must be http://proxy:3128 or http://user:password@proxy:3128, with characters such as @ written as %40"


@dataclass(frozen=True)
class EgressProxy:
    url: Url
    authorization: str = field(default="", repr=False)
    """Value of the Proxy-Authorization header; '' for none."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, which never quotes the text."""
        match = _PROXY.fullmatch(text)
        try:
            url = Url.parse(f"http://{match['location']}") if match else None
        except ForbiddenUrl:
            url = None
        if match is None or url is None:
            raise ValueError(_INVALID)
        login = match["login"]
        return cls(url, f"Basic {base64.b64encode(unquote(login).encode()).decode()}" if login else "")

    def open_tunnel(self, sock: socket.socket, target: str, budget: ExchangeBudget) -> None:
        """Connect to `target`, a `host:port`, through the proxy, which resolves the host.

        Raises ConnectionFailed and OutboundTimeout.
        """
        login = f"Proxy-Authorization: {self.authorization}\r\n" if self.authorization else ""
        try:
            sock.settimeout(budget.require_time())
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n".encode())
            head = _read_head(sock, budget)
        except TimeoutError:
            budget.require_time()
            raise ConnectionFailed("The egress proxy does not answer.") from None
        except OSError:
            raise ConnectionFailed("The egress proxy closed the connection.") from None
        status = _STATUS.match(head)
        if status is None or not head.endswith(b"\r\n\r\n"):
            raise ConnectionFailed("The egress proxy sent an invalid HTTP response.")
        if not status[1].startswith(b"2"):
            raise ConnectionFailed(f"The egress proxy refused to connect (HTTP {status[1].decode()}).")


def _read_head(sock: socket.socket, budget: ExchangeBudget) -> bytes:
    """Read byte by byte: everything after the head comes from the server."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n") and len(head) < _MAX_HEAD_BYTES:
        sock.settimeout(budget.require_time())
        byte = sock.recv(1)
        if not byte:
            break
        head += byte
    return bytes(head)
