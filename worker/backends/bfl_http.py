"""HTTP as a job needs it: bounded in time and size, followed nowhere, and the key sent to its owner alone."""

import itertools
import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
import urllib3.exceptions
from pydantic import SecretStr

from shared.doors import is_loopback
from shared.errors import InvalidOutput, TimedOut, UpstreamUnavailable
from worker.backends.base import Watch

logger = logging.getLogger(__name__)

_API_HOST = re.compile(r"api(\.[a-z0-9-]+)?\.bfl\.ai")
#: No blanks, and no backslash, which some parsers of addresses take for a slash.
_PLAIN_URL = re.compile(r"[!-\[\]-~]+")
_TICK_SECONDS = 0.2


@dataclass(frozen=True)
class Patience:
    connect_seconds: float = 5.0
    submit_seconds: float = 30.0
    """For the answer to a submit, which is waited for as long as makes sense: who gives up may have paid."""
    answer_seconds: float = 10.0
    """For any other, which can be asked for again."""
    first_pause: float = 0.5
    growth: float = 1.5
    longest_pause: float = 5.0
    longest_retry_after: float = 60.0
    tries: int = 10
    """How often they may turn one request away, or answer it with what nobody can read."""

    def pauses(self) -> Iterator[float]:
        for number in itertools.count():
            pause = min(self.first_pause * self.growth ** min(number, 100), self.longest_pause)
            # Jobs that were sent together need not ask together.
            yield pause * random.uniform(0.8, 1.2)  # noqa: S311 - no secret

    def wait_seconds(self, pause: float, retry_after: float | None) -> float:
        """As long as they ask for, within reason."""
        return pause if retry_after is None else min(max(retry_after, pause), self.longest_retry_after)


class Turn:
    """The time that a job has. There is no other limit: it runs on a thread, which nobody can stop."""

    def __init__(self, watch: Watch, seconds: float) -> None:
        self._watch = watch
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.05, self._end - time.monotonic())

    def check(self) -> None:
        """Raises TimedOut, and what the watch raises."""
        self._watch.check()
        if time.monotonic() >= self._end:
            raise TimedOut

    def pause(self, seconds: float) -> None:
        """Raises as `check` does, soon after there is a reason to."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _TICK_SECONDS))
        self.check()


class Unreachable(Exception):
    """No whole answer came. `sent` says whether the request may have arrived."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any] | None:
        """None for what is no JSON object."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def retry_after(self) -> float | None:
        told = self.headers.get("Retry-After", "").strip()
        if told.isascii() and told.isdigit():
            return float(told[:6])
        try:
            moment = parsedate_to_datetime(told)
        except ValueError:
            return None
        return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


class Http:
    """One connection, for one job at a time."""

    def __init__(self, base_url: str, key: SecretStr, patience: Patience) -> None:
        base = urlsplit(base_url)
        self._origin = _origin(base)
        self._local = is_loopback(base.hostname or "")
        self._key = key
        self._patience = patience
        self._session = requests.Session()
        # Without one of its own, requests would look for a login in ~/.netrc.
        self._session.auth = _no_login
        # No proxy stands between a test and its own machine.
        self._session.trust_env = not self._local

    def close(self) -> None:
        self._session.close()

    def get(self, url: str, turn: Turn, most: int, *, with_key: bool) -> Answer:
        """Ask again for as long as the server fails or cannot be reached: that costs nothing."""
        turned_away = 0
        for pause in self._patience.pauses():
            turn.check()
            retry_after = None
            try:
                seconds = min(self._patience.answer_seconds, turn.left())
                answer = self.call("GET", url, seconds, most, turn.check, with_key=with_key)
            except Unreachable as error:
                logger.info("the provider could not be asked: %s", error)
            else:
                if answer.status != 429 and answer.status < 500:
                    return answer
                logger.info("the provider could not be asked: HTTP %s", answer.status)
                turned_away += answer.status == 429
                if turned_away == self._patience.tries:
                    raise UpstreamUnavailable("The provider answers no more questions now (HTTP 429).")
                retry_after = answer.retry_after()
            turn.pause(self._patience.wait_seconds(pause, retry_after))
        raise AssertionError("pauses never end")

    def call(
        self,
        method: str,
        url: str,
        seconds: float,
        most: int,
        check: Callable[[], None],
        *,
        with_key: bool,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        headers = {"Accept-Encoding": "identity"}
        if with_key:
            headers["x-key"] = self._key.get_secret_value()
        timeout = (self._patience.connect_seconds, seconds)
        try:
            with self._session.request(
                method, url, json=body, headers=headers, timeout=timeout, allow_redirects=False, stream=True
            ) as response:
                return Answer(response.status_code, response.headers, _read(response, most, check))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(type(error).__name__, sent=_may_have_arrived(error)) from None

    def may_have_key(self, url: str) -> bool:
        parts = _parsed(url)
        if parts is None:
            return False
        if _origin(parts) == self._origin:
            return True
        host = parts.hostname or ""
        return _origin(parts) == ("https", host, 443) and _API_HOST.fullmatch(host) is not None

    def may_be_fetched(self, url: str) -> bool:
        parts = _parsed(url)
        if parts is None or not parts.hostname:
            return False
        if self._local and is_loopback(parts.hostname):
            return parts.scheme in ("http", "https")
        return parts.scheme == "https" and _is_public(parts.hostname)


def _no_login(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _read(response: requests.Response, most: int, check: Callable[[], None]) -> bytes:
    data = bytearray()
    # As it comes, not a full buffer at a time: a server that sends a byte now and then would hold the job for ever.
    while chunk := response.raw.read1(1 << 16, decode_content=True):
        data += chunk
        if len(data) > most:
            raise InvalidOutput(f"The provider sent more than {most} bytes.")
        check()
    return bytes(data)


def _may_have_arrived(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout | requests.exceptions.SSLError):
        return False
    reason = getattr(error.args[0], "reason", None) if error.args else None
    never = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    return not isinstance(reason, never)


def _parsed(url: str) -> SplitResult | None:
    """None for what could be read in two ways, or holds a login."""
    if not _PLAIN_URL.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return None if "@" in parts.netloc else parts


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _is_public(host: str) -> bool:
    try:
        return ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".local", ".internal", ".localhost"))
