"""HTTP as a job needs it: bounded in time and size, followed nowhere, and the key sent to its owner alone."""

import io
import itertools
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import requests
import urllib3.exceptions
from pydantic import SecretStr

from shared.errors import ForbiddenUrl, InvalidOutput, OutboundTimeout, ResponseTooLarge, TimedOut, Unreachable
from shared.net.outbound import HttpResponse, OutboundClient
from shared.net.url import Url
from shared.settings.http_server import is_loopback
from worker.engines.base import JobWatch

logger = logging.getLogger(__name__)

_API_HOST = re.compile(r"api(\.[a-z0-9-]+)?\.bfl\.ai")
_TICK_SECONDS = 0.2
#: How often an image may lie elsewhere than its address says.
REDIRECTS = 3


@dataclass(frozen=True)
class ProviderTimeouts:
    connect_seconds: float = 5.0
    submit_seconds: float = 120.0
    """For the answer to a submit, which is waited for as long as makes sense: who gives up may have paid."""
    answer_seconds: float = 10.0
    """For any other, which can be asked for again."""
    image_seconds: float = 60.0
    """For all of an image, which can be asked for again, too."""
    first_pause: float = 0.5
    growth: float = 1.5
    longest_pause: float = 5.0
    longest_retry_after: float = 60.0
    tries: int = 10
    """How often they may turn one submit away."""
    unknown_seconds: float = 60.0
    """How long they may not know a task that they took: their servers hear of it one after the other."""
    spoilt: int = 3
    """How often a whole image may come that cannot be used."""

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

    def __init__(self, watch: JobWatch, seconds: float) -> None:
        self._watch = watch
        self._end = time.monotonic() + seconds
        self.known = ""
        """What is known of the job's money, in a sentence: told where the time is up."""
        self.seen = ""
        """What was last heard of the provider, in a sentence."""

    def left(self) -> float:
        return max(0.05, self._end - time.monotonic())

    def check(self) -> None:
        """Raises TimedOut, and what the watch raises."""
        self._watch.check()
        if time.monotonic() >= self._end:
            raise TimedOut(" ".join(filter(None, (TimedOut.__doc__, self.known, self.seen))))

    def pause(self, seconds: float) -> None:
        """Raises as `check` does, soon after there is a reason to."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _TICK_SECONDS))
        self.check()


class NoResponse(Exception):
    """No whole answer came. `sent` says whether all of the request may have arrived."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Http:
    """One connection, for one job at a time."""

    def __init__(self, base_url: str, key: SecretStr, patience: ProviderTimeouts) -> None:
        base = Url.parse(base_url)
        self._origin = base.origin
        self._local = is_loopback(base.host)
        self._key = key
        self._patience = patience
        self._session = requests.Session()
        # Without one of its own, requests would look for a login in ~/.netrc.
        self._session.auth = _no_login
        # No proxy stands between a test and its own machine.
        self._session.trust_env = not self._local

    def close(self) -> None:
        self._session.close()

    def get(self, url: str, turn: Turn, most: int) -> HttpResponse:
        """With the key. Asks again for as long as the server fails or cannot be reached: that costs nothing."""

        def ask() -> HttpResponse:
            seconds = min(self._patience.answer_seconds, turn.left())
            return self.call("GET", url, seconds, most, turn.check)

        return self._insist(ask, turn)

    def fetch(self, url: str, turn: Turn, most: int) -> HttpResponse:
        """Without the key, from anywhere in the public net. Asks again as `get` does.

        Raises ForbiddenUrl, and InvalidOutput for more than `most` bytes.
        """
        outbound = self._outbound_client(url)

        def ask() -> HttpResponse:
            data = bytearray()

            def take(piece: bytes) -> None:
                data.extend(piece)
                turn.check()

            seconds = min(self._patience.image_seconds, turn.left())
            answer = outbound.send(
                "GET", url, timeout_seconds=seconds, max_bytes=most, max_redirects=REDIRECTS, sink=take
            )
            return replace(answer, body=bytes(data))

        return self._insist(ask, turn)

    def _insist(self, ask: Callable[[], HttpResponse], turn: Turn) -> HttpResponse:
        for pause in self._patience.pauses():
            turn.check()
            retry_after = None
            try:
                answer = ask()
            except ResponseTooLarge:
                raise InvalidOutput("The provider sent more than makes sense.") from None
            except (NoResponse, Unreachable, OutboundTimeout) as error:
                why = str(error)
            else:
                if answer.status != 429 and answer.status < 500:
                    return answer
                why, retry_after = f"HTTP {answer.status}", answer.retry_after()
            logger.info("the provider could not be asked: %s", why)
            turn.seen = f"The provider could not be asked: {why.rstrip('.')}."
            turn.pause(self._patience.wait_seconds(pause, retry_after))
        raise AssertionError("pauses never end")

    def call(
        self,
        method: str,
        url: str,
        seconds: float,
        most: int,
        check: Callable[[], None],
        body: io.BytesIO | None = None,
    ) -> HttpResponse:
        """Once, with the key. Raises NoResponse and what `check` raises, which is called as it comes."""
        headers = {"Accept-Encoding": "identity", "x-key": self._key.get_secret_value()}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        # A file is sent in pieces, each with the time limit of a connection; bytes would have that one for the whole.
        sent = body or io.BytesIO()
        sent.seek(0)
        timeout = (self._patience.connect_seconds, seconds)
        try:
            with self._session.request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                return HttpResponse(response.status_code, response.headers, _read(response, most, check))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # Whoever has not got the last piece of a body has no JSON.
            raise NoResponse(type(error).__name__, sent=not sent.read(1)) from None

    def may_have_key(self, text: str) -> bool:
        try:
            url = Url.parse(text)
        except ForbiddenUrl:
            return False
        is_theirs = (url.scheme, url.port) == ("https", 443) and _API_HOST.fullmatch(url.host) is not None
        return is_theirs or url.origin == self._origin

    def _outbound_client(self, text: str) -> OutboundClient:
        """For an image's address. Raises ForbiddenUrl."""
        url = Url.parse(text)
        # A provider on this machine has its images here, too.
        if self._local and is_loopback(url.host):
            return OutboundClient([url.origin])
        if url.scheme != "https":
            raise ForbiddenUrl("The address is not https.")
        return OutboundClient()


def _no_login(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
    return prepared


def _read(response: requests.Response, most: int, check: Callable[[], None]) -> bytes:
    data = bytearray()
    # As it comes, not a full buffer at a time: a server that sends a byte now and then would hold the job for ever.
    while chunk := response.raw.read1(1 << 16, decode_content=True):
        data += chunk
        if len(data) > most:
            raise NoResponse(f"more than {most} bytes", sent=True)
        check()
    return bytes(data)
