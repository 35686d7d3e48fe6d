"""Webhook receivers: real servers on loopback, well-behaved or hostile, that record requests."""

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook as Verifier

PATIENCE_SECONDS = 40.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass(frozen=True)
class Arrival:
    """One recorded request."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.body)
        return content

    @property
    def type(self) -> str:
        return str(self.message["type"]).removeprefix("job.")

    def verify(self, secret: str = SECRET) -> None:
        """Raises WebhookVerificationError."""
        Verifier(secret).verify(self.body, self.headers)


#: What a receiver does once a request has come; None answers 204.
Behaviour = Callable[[BaseHTTPRequestHandler, Arrival], None]


class Receiver:
    """Answers 204 until `behave` is changed."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/hooks/images?token=secret-of-the-caller"
        self.arrivals: list[Arrival] = []
        self.behave: Behaviour = answer(204)
        self._news: queue.Queue[Arrival] = queue.Queue()

    def next(self, seconds: float = PATIENCE_SECONDS) -> Arrival:
        """The next request that was not returned yet."""
        try:
            return self._news.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"nothing came within {seconds} s after {self.types}") from None

    def until(self, event: str) -> list[Arrival]:
        """All requests up to the first with this event."""
        heard = [self.next()]
        while heard[-1].type != event:
            heard.append(self.next())
        return heard

    def forget(self) -> None:
        """Discard all recorded requests."""
        self.arrivals, self._news = [], queue.Queue()

    @property
    def types(self) -> list[str]:
        return [arrival.type for arrival in self.arrivals]

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        arrival = Arrival(handler.path, headers, body, time.time())
        self.arrivals.append(arrival)
        # A waiting test may end now and change the behaviour.
        behave = self.behave
        self._news.put(arrival)
        behave(handler, arrival)


def answer(status: int, **headers: str) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler, _: Arrival) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def tomorrow(behaviour: Behaviour) -> Behaviour:
    """The same behaviour with a clock that is a day ahead."""

    def behave(handler: BaseHTTPRequestHandler, arrival: Arrival) -> None:
        ahead = formatdate(time.time() + 86_400, usegmt=True)
        handler.date_time_string = lambda *_: ahead  # type: ignore[method-assign] # of this handler alone
        behaviour(handler, arrival)

    return behave


def endless(status: int) -> Behaviour:
    """Starts a response and never ends it."""

    def behave(handler: BaseHTTPRequestHandler, _: Arrival) -> None:
        handler.send_response(status)
        handler.end_headers()
        with suppress(OSError):
            while True:
                handler.wfile.write(b"x" * 8192)

    return behave


def hang(until: threading.Event) -> Behaviour:
    """Answers 204 after the event is set."""

    def behave(handler: BaseHTTPRequestHandler, arrival: Arrival) -> None:
        until.wait(60)
        with suppress(OSError):
            answer(204)(handler, arrival)

    return behave


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self)

        def log_message(self, *_: object) -> None:
            pass

    with _Server(("127.0.0.1", port), Handler) as server:
        receiver = Receiver(server.server_port)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield receiver
        server.shutdown()
