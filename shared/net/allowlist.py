"""Match URLs with the hosts that the operator allows (SD_WEBHOOK_ALLOW) and their headers (SD_WEBHOOK_HEADER)."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from shared.errors import ForbiddenUrl
from shared.net.url import Url

#: Path of n8n's Wait nodes. A URL below it works for one execution and n8n 2 signs it, so a caller that knows one got
#: it from n8n. An entry without a path allows a whole origin, but its header is only sent below this path.
WAIT_NODE_PATH = "/webhook-waiting"
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")
_RESERVED_HEADERS = {"connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"}
_RESERVED_HEADERS |= {"webhook-id", "webhook-timestamp", "webhook-signature"}
#: A path that is encoded more often is meant to be read differently on the way.
_MAX_DECODINGS = 4


@dataclass(frozen=True)
class AllowlistEntry:
    """An origin, or a path of one with everything below it."""

    origin: str
    path: str = ""
    """Without a trailing slash; '' means the whole origin."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        try:
            url = Url.parse(text)
        except ForbiddenUrl:
            url = None
        if url is None or not text.startswith(url.origin):
            raise ValueError(_WRONG_ENTRY)
        path = text.removeprefix(url.origin)
        if path and (path == "/" or path != url.target or "?" in path or not _is_plain(path.rstrip("/"))):
            raise ValueError(_WRONG_ENTRY)
        return cls(url.origin, path.rstrip("/"))

    def covers(self, url: Url) -> bool:
        """Compare paths as written. A path that servers could read in different ways never matches."""
        if url.origin != self.origin:
            return False
        path = url.target.partition("?")[0]
        return not self.path or (f"{path}/".startswith(f"{self.path}/") and _is_plain(path))


@dataclass(frozen=True)
class ReceiverHeader:
    entry: AllowlistEntry
    name: str
    value: str = field(repr=False)


def parse_receiver_headers(text: str, allow: Sequence[str]) -> tuple[ReceiverHeader, ...]:
    """Parse `Name: value`, which applies to every entry, or a JSON object with a header per entry.

    Raises ValueError, which never quotes a value.
    """
    if text.lstrip().startswith("{"):
        headers = _by_entry(text)
    else:
        _header(text)
        headers = dict.fromkeys(allow, text)
    if not headers.keys() <= {*allow}:
        raise ValueError("names an entry that is not in SD_WEBHOOK_ALLOW, or is spelled differently there")
    entries = ((AllowlistEntry.parse(entry), header) for entry, header in headers.items())
    return tuple(
        ReceiverHeader(AllowlistEntry(entry.origin, entry.path or WAIT_NODE_PATH), *_header(header))
        for entry, header in entries
    )


def header_for(url: Url, headers: Sequence[ReceiverHeader]) -> dict[str, str]:
    """The header of the entry with the longest path that covers the URL."""
    covering = [header for header in headers if header.entry.covers(url)]
    longest = max(covering, key=lambda header: len(header.entry.path), default=None)
    return {longest.name: longest.value} if longest else {}


def _by_entry(text: str) -> dict[str, str]:
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        headers = None
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError('must be `Name: value`, or JSON such as {"http://n8n:5678/webhook/images": "Name: value"}')
    return headers


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (_HEADER_NAME.fullmatch(name) and colon and _HEADER_VALUE.fullmatch(value.strip())):
        raise ValueError("must be a header as `Name: value`")
    if name.lower() in _RESERVED_HEADERS:
        raise ValueError("names a header that every webhook already has")
    return name, value.strip()


def _is_plain(path: str) -> bool:
    """Whether every server reads the path in the same way, however often and in whichever order it decodes it."""
    for _ in range(_MAX_DECODINGS):
        segments = {segment.partition(";")[0] for segment in path.split("/")}
        if "//" in path or "\\" in path or not path.isprintable() or "\ufffd" in path or {".", ".."} & segments:
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False


_WRONG_ENTRY = (
    "each entry must be an origin with its port, such as http://n8n:5678, or a plain path of one, such as "
    "http://n8n:5678/webhook/images"
)
