"""HTTP with a provider: limited in time and size, without redirects, and with the API key for its owner only."""

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
from shared.net.egress_proxy import EgressProxy
from shared.net.outbound import HttpResponse, OutboundClient
from shared.net.url import Url
from shared.settings.http_server import is_loopback
from worker.engines.base import JobWatch

logger = logging.getLogger(__name__)

_API_HOST = re.compile(r"api(\.[a-z0-9-]+)?\.bfl\.ai")
_TICK_SECONDS = 0.2
MAX_RESPONSE_BYTES = 1 << 20
#: For downloads of images.
MAX_IMAGE_BYTES, MAX_REDIRECTS = 64 << 20, 3


@dataclass(frozen=True)
class ProviderTimeouts:
    connect_seconds: float = 5.0
    submit_seconds: float = 120.0
    """For the response to a submit. Generous: giving up may lose an image that was paid for."""
    response_seconds: float = 10.0
    """For all other responses: these requests can be repeated."""
    image_seconds: float = 60.0
    """For a whole image: downloads can be repeated, too."""
    first_pause: float = 0.5
    growth: float = 1.5
    longest_pause: float = 5.0
    longest_retry_after: float = 60.0
    max_submits: int = 10
    """How often a submit may be rejected."""
    unknown_task_seconds: float = 60.0
    """How long a new task may be unknown: it takes time to reach all of the provider's servers."""
    max_invalid_images: int = 3
    """How often an image may be downloaded completely and still be invalid."""

    def pauses(self) -> Iterator[float]:
        for number in itertools.count():
            pause = min(self.first_pause * self.growth ** min(number, 100), self.longest_pause)
            # Jitter spreads the polls of jobs that were sent together.
            yield pause * random.uniform(0.8, 1.2)  # noqa: S311 - not a secret

    def retry_pause(self, pause: float, retry_after: float | None) -> float:
        """The provider's Retry-After, within limits; by default `pause`."""
        return pause if retry_after is None else min(max(retry_after, pause), self.longest_retry_after)


class JobDeadline:
    """The time limit of a job. It is the only one: the job runs on a thread, which cannot be killed."""

    def __init__(self, watch: JobWatch, seconds: float) -> None:
        self._watch = watch
        self._end = time.monotonic() + seconds
        self.billing = ""
        """A sentence on what was paid for, for the error message."""
        self.last_response = ""
        """A sentence on the provider's last response, for the error message."""

    def seconds_left(self) -> float:
        return max(0.05, self._end - time.monotonic())

    def check(self) -> None:
        """Raises TimedOut, and what the watch raises."""
        self._watch.check()
        if time.monotonic() >= self._end:
            raise TimedOut(" ".join(filter(None, (TimedOut.__doc__, self.billing, self.last_response))))

    def pause(self, seconds: float) -> None:
        """Sleep, but raise what `check` raises without much delay."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _TICK_SECONDS))
        self.check()


class NoResponse(Exception):
    """No complete response. `sent` says whether the whole request may have arrived."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


class Http:
    """Not thread-safe: one job at a time."""

    def __init__(
        self, base_url: str, key: SecretStr, timeouts: ProviderTimeouts, image_proxy: EgressProxy | None = None
    ) -> None:
        base = Url.parse(base_url)
        self._origin = base.origin
        self._local = is_loopback(base.host)
        self.base_url, self.key, self.timeouts = base_url, key, timeouts
        self._image_proxy = image_proxy
        self._session = requests.Session()
        # By default, requests looks for credentials in ~/.netrc.
        self._session.auth = lambda prepared: prepared
        # No proxy for a provider on this machine, as in tests.
        self._session.trust_env = not self._local

    def close(self) -> None:
        self._session.close()

    def get(self, url: str, deadline: JobDeadline) -> HttpResponse:
        """With the key. Retries as long as the server fails or cannot be reached: that costs nothing."""

        def send() -> HttpResponse:
            seconds = min(self.timeouts.response_seconds, deadline.seconds_left())
            return self.call(url, seconds, deadline.check)

        return self._with_retries(send, deadline)

    def fetch(self, url: str, deadline: JobDeadline) -> HttpResponse:
        """An image, without the key, from any public address, through the proxy for images. Retries as `get` does.

        Raises ForbiddenUrl, and InvalidOutput for more than MAX_IMAGE_BYTES.
        """
        outbound = self._outbound_client(url)

        def send() -> HttpResponse:
            data = bytearray()

            def take(piece: bytes) -> None:
                data.extend(piece)
                deadline.check()

            seconds = min(self.timeouts.image_seconds, deadline.seconds_left())
            response = outbound.send(
                "GET", url, timeout_seconds=seconds, max_bytes=MAX_IMAGE_BYTES, max_redirects=MAX_REDIRECTS, sink=take
            )
            return replace(response, body=bytes(data))

        return self._with_retries(send, deadline)

    def _with_retries(self, send: Callable[[], HttpResponse], deadline: JobDeadline) -> HttpResponse:
        for pause in self.timeouts.pauses():
            deadline.check()
            retry_after = None
            try:
                response = send()
            except ResponseTooLarge:
                raise InvalidOutput("The provider's response is too large.") from None
            except (NoResponse, Unreachable, OutboundTimeout) as error:
                reason = str(error)
            else:
                if response.status != 429 and response.status < 500:
                    return response
                reason, retry_after = f"HTTP {response.status}", response.retry_after()
            logger.info("the request to the provider failed: %s", reason)
            # A request that the time limit ends says less than the response before it.
            if deadline.last_response:
                deadline.check()
            deadline.last_response = f"The last request to the provider failed: {reason.rstrip('.')}."
            deadline.pause(self.timeouts.retry_pause(pause, retry_after))
        raise AssertionError("pauses never end")

    def call(
        self, url: str, seconds: float, check: Callable[[], None] = lambda: None, body: io.BytesIO | None = None
    ) -> HttpResponse:
        """POST the body, or else GET, once, with the key.

        Raises NoResponse, and what `check` raises, which is called while data arrives.
        """
        headers = {"Accept-Encoding": "identity", "x-key": self.key.get_secret_value()}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        # A file is sent in blocks, each within the connect timeout; that would apply to the whole of a bytes object.
        file = body or io.BytesIO()
        file.seek(0)
        timeout = (self.timeouts.connect_seconds, seconds)
        try:
            with self._session.request(
                "GET" if body is None else "POST",
                url,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                return HttpResponse(response.status_code, response.headers, _read(response, check))
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # Without its last block, the body is not valid JSON.
            raise NoResponse(type(error).__name__, sent=not file.read(1)) from None

    def may_have_key(self, text: str) -> bool:
        try:
            url = Url.parse(text)
        except ForbiddenUrl:
            return False
        is_provider = (url.scheme, url.port) == ("https", 443) and _API_HOST.fullmatch(url.host) is not None
        return is_provider or url.origin == self._origin

    def _outbound_client(self, text: str) -> OutboundClient:
        """For an image's URL. Raises ForbiddenUrl."""
        url = Url.parse(text)
        # A provider on this machine may serve its images from this machine.
        if self._local and is_loopback(url.host):
            return OutboundClient([url.origin])
        if url.scheme != "https":
            raise ForbiddenUrl("The URL is not https.")
        return OutboundClient(proxy=self._image_proxy)


def _read(response: requests.Response, check: Callable[[], None]) -> bytes:
    data = bytearray()
    # read1 returns what has arrived. Waiting for full buffers, a server that sends single bytes would block for ever.
    while chunk := response.raw.read1(1 << 16, decode_content=True):
        data += chunk
        if len(data) > MAX_RESPONSE_BYTES:
            raise NoResponse(f"more than {MAX_RESPONSE_BYTES} bytes", sent=True)
        check()
    return bytes(data)
