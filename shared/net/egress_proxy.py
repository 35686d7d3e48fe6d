"""The proxy through which requests to addresses from outside leave a network (SD_EGRESS_PROXY): by CONNECT."""

import base64
import re
import socket
from dataclasses import dataclass, field
from typing import Protocol, Self
from urllib.parse import unquote

from shared.errors import ConnectionFailed, ForbiddenUrl
from shared.net.url import Url

_PROXY = re.compile(r"http://(?:(?P<login>[^@/]*:[^@/]*)@)?(?P<place>[^@/]+:[0-9]+)/?", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})\b")
_MOST_HEAD_BYTES = 8 << 10
_WRONG = "must be http://proxy:3128 or http://user:password@proxy:3128, with signs such as @ in them as %40"


class Allowance(Protocol):
    """What an exchange may still cost."""

    def seconds(self) -> float: ...


@dataclass(frozen=True)
class EgressProxy:
    url: Url
    authorization: str = field(default="", repr=False)
    """Value of the header; '' for none."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, which never quotes the text."""
        match = _PROXY.fullmatch(text)
        try:
            url = Url.parse(f"http://{match['place']}") if match else None
        except ForbiddenUrl:
            url = None
        if match is None or url is None:
            raise ValueError(_WRONG)
        login = match["login"]
        return cls(url, f"Basic {base64.b64encode(unquote(login).encode()).decode()}" if login else "")

    def open_tunnel(self, sock: socket.socket, target: str, allowance: Allowance) -> None:
        """Tunnel to `target` (`host:port`). Raises ConnectionFailed and OutboundTimeout.

        Where that is, the proxy finds out.
        """
        login = f"Proxy-Authorization: {self.authorization}\r\n" if self.authorization else ""
        try:
            sock.settimeout(allowance.seconds())
            sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n".encode())
            head = _head(sock, allowance)
        except TimeoutError:
            allowance.seconds()
            raise ConnectionFailed("The egress proxy gives no answer.") from None
        except OSError:
            raise ConnectionFailed("The egress proxy ends the connection.") from None
        status = _STATUS.match(head)
        if status is None or not head.endswith(b"\r\n\r\n"):
            raise ConnectionFailed("The egress proxy gives no answer in HTTP.")
        if not status[1].startswith(b"2"):
            raise ConnectionFailed(f"The egress proxy does not connect to it (HTTP {status[1].decode()}).")


def _head(sock: socket.socket, allowance: Allowance) -> bytes:
    """Not a byte more than it: what follows is the server's."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n") and len(head) < _MOST_HEAD_BYTES:
        sock.settimeout(allowance.seconds())
        piece = sock.recv(1)
        if not piece:
            break
        head += piece
    return bytes(head)
