"""Sends one GET request to an external server and reports what came back."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests

from shared.errors import ForbiddenUrl
from shared.net.url import Url
from shared.settings.http_server import is_loopback

TIMEOUT_SECONDS = 6.0
MAX_BYTES = 64 << 10


@dataclass(frozen=True)
class ProbeResponse:
    status: int
    text: str
    skew_seconds: float | None
    """How far the server's clock is ahead of this machine's, to a second; None without a Date header."""


@dataclass(frozen=True)
class ProbeFailed:
    reason: str


def probe(url: str, headers: Mapping[str, str] | None = None) -> ProbeResponse | ProbeFailed:
    """GET without redirects and retries, bounded in time and size. The result quotes no URL and no header."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        with requests.Session() as session:
            # Logins in ~/.netrc are not meant for these servers, and no proxy stands before this machine's own.
            session.auth, session.trust_env = _no_login, not _is_local(url)
            with session.get(
                url, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ) as response:
                sent_at = _date_of(response)
                skew = (sent_at - datetime.now(UTC)).total_seconds() if sent_at else None
                return ProbeResponse(response.status_code, _read(response, deadline), skew)
    except requests.Timeout:
        return ProbeFailed(f"no response within {TIMEOUT_SECONDS:g} s")
    except requests.exceptions.SSLError:
        return ProbeFailed("its certificate is not trusted")
    except requests.exceptions.ProxyError:
        return ProbeFailed("the proxy named in the environment refuses the connection")
    except (requests.RequestException, OSError):
        return ProbeFailed("no connection")


def _read(response: requests.Response, deadline: float) -> str:
    data = b""
    for chunk in response.iter_content(4096):
        data += chunk
        if len(data) > MAX_BYTES or time.monotonic() > deadline:
            break
    return data[:MAX_BYTES].decode(errors="replace")


def _date_of(response: requests.Response) -> datetime | None:
    try:
        date = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _is_local(url: str) -> bool:
    try:
        return is_loopback(Url.parse(url).host)
    except ForbiddenUrl:
        return False


def _no_login(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared
