"""The receivers that the operator vouches for (SD_WEBHOOK_ALLOW), and the headers that go there (SD_WEBHOOK_HEADER)."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from shared.errors import ForbiddenUrl
from shared.net.url import Url

#: Where n8n calls its Wait nodes. An address below it is good for one execution, and n8n 2 signs it: who can name one
#: was given it. An entry without a path vouches for a whole origin, but its header goes no further than here.
WAIT_NODE_PATH = "/webhook-waiting"
_HEADER_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]+")
_OWN_HEADERS = {"connection", "content-length", "content-type", "host", "transfer-encoding", "user-agent"}
_OWN_HEADERS |= {"webhook-id", "webhook-timestamp", "webhook-signature"}
#: Who encodes an address so often means to have it read differently on the way.
_MOST_DECODINGS = 4


@dataclass(frozen=True)
class AllowlistEntry:
    """An origin, or what lies below a path of it."""

    origin: str
    path: str = ""
    """Without a slash at its end; '' for all of the origin."""

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
        """Paths are compared as they are written. One that servers read in different ways is below none."""
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
    """From `Name: value`, which goes to every entry, or from a JSON object with a header for each entry.

    Raises ValueError, which never quotes a value.
    """
    if text.lstrip().startswith("{"):
        headers = _by_entry(text)
    else:
        _header(text)
        headers = dict.fromkeys(allow, text)
    if not headers.keys() <= {*allow}:
        raise ValueError("names a receiver that is not in SD_WEBHOOK_ALLOW, or is written differently there")
    found = ((AllowlistEntry.parse(entry), *_header(header)) for entry, header in headers.items())
    return tuple(
        ReceiverHeader(AllowlistEntry(entry.origin, entry.path or WAIT_NODE_PATH), *header) for entry, *header in found
    )


def header_for(url: Url, headers: Sequence[ReceiverHeader]) -> dict[str, str]:
    """That of the longest path which covers the address."""
    covering = [header for header in headers if header.entry.covers(url)]
    nearest = max(covering, key=lambda header: len(header.entry.path), default=None)
    return {nearest.name: nearest.value} if nearest else {}


def _by_entry(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError('must be `Name: value`, or JSON such as {"http://n8n:5678/webhook/images": "Name: value"}')
    return found


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (_HEADER_NAME.fullmatch(name) and colon and _HEADER_VALUE.fullmatch(value.strip())):
        raise ValueError("must be a header as `Name: value`")
    if name.lower() in _OWN_HEADERS:
        raise ValueError("names a header that every webhook has already")
    return name, value.strip()


def _is_plain(path: str) -> bool:
    """Whether every server takes the path for the same, however often and in whichever order it decodes it."""
    for _ in range(_MOST_DECODINGS):
        steps = (step.partition(";")[0] for step in path.split("/"))
        if "//" in path or "\\" in path or not path.isprintable() or "\ufffd" in path or {".", ".."} & {*steps}:
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False


_WRONG_ENTRY = (
    "each entry must be an origin with its port, such as http://n8n:5678, or a plain path of it, such as "
    "http://n8n:5678/webhook/images"
)
