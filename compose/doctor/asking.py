"""One question to a server outside."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from shared.errors import ForbiddenUrl
from shared.net.url import Url
from shared.settings.http_server import is_loopback

SECONDS = 6.0
MOST_BYTES = 64 << 10


@dataclass(frozen=True)
class ProbeResponse:
    status: int
    text: str
    skew_seconds: float | None
    """How far the server's clock is ahead of this machine's, to a second; None where it does not tell."""


@dataclass(frozen=True)
class ProbeFailed:
    why: str


def probe(url: str, headers: Mapping[str, str] | None = None) -> ProbeResponse | ProbeFailed:
    """GET, once, straight: `headers` may hold a key. Bounded in time and size. No address or key is in what is told."""
    end = time.monotonic() + SECONDS
    try:
        with requests.Session() as session:
            # A login of ~/.netrc is not for them; and no proxy stands before this machine's own servers.
            session.auth, session.trust_env = _no_login, not _is_here(url)
            with session.get(url, headers=headers, timeout=SECONDS, allow_redirects=False, stream=True) as response:
                sent = _time_of(response)
                ahead = (sent - datetime.now(UTC)).total_seconds() if sent else None
                return ProbeResponse(response.status_code, _read(response, end), ahead)
    except requests.Timeout:
        return ProbeFailed(f"no answer within {SECONDS:g} s")
    except requests.exceptions.SSLError:
        return ProbeFailed("its certificate is not trusted here")
    except requests.exceptions.ProxyError:
        return ProbeFailed("the proxy that the environment names gives no connection")
    except (requests.RequestException, OSError):
        return ProbeFailed("no connection")


def _read(response: requests.Response, end: float) -> str:
    data = b""
    for piece in response.iter_content(4096):
        data += piece
        if len(data) > MOST_BYTES or time.monotonic() > end:
            break
    return data[:MOST_BYTES].decode(errors="replace")


def _time_of(response: requests.Response) -> datetime | None:
    try:
        told = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, ValueError):
        return None
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def _is_here(url: str) -> bool:
    try:
        return is_loopback(Url.parse(url).host)
    except ForbiddenUrl:
        return False


def _no_login(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared
