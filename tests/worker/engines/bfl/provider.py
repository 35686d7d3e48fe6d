"""A fake Black Forest Labs: a real HTTP server with scripted responses that records its requests."""

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

KEY = "5ecret-key-0123456789"


def image(kind: str = "PNG", width: int = 64, height: int = 64) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclass(frozen=True)
class Reply:
    """One response. `hang_up` closes the connection without one; `claim` is a wrong Content-Length."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    seconds: float = 0.0
    hang_up: bool = False
    claim: int | None = None
    trickle: bool = False

    @property
    def data(self) -> bytes:
        return self.raw if self.raw is not None else json.dumps(self.body).encode()


@dataclass(frozen=True)
class ReceivedRequest:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    connection: int
    """The client's port."""


#: The next responses, or functions that create them from the request. The last one is repeated for ever.
Script = list[Reply | Callable[[ReceivedRequest], Reply]]


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *connection: Any) -> None:
        # Tests kill clients, which close connections.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*connection)


class Provider:
    """`submits`, `polls` and `downloads` are its scripts; by default everything succeeds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()
        self.api = self._serve("api")
        #: A separate host, like the real one: another port is another origin.
        self.delivery = self._serve("delivery")
        self.api_url = f"http://127.0.0.1:{self.api.server_port}"
        self.delivery_url = f"http://127.0.0.1:{self.delivery.server_port}"

    def reset(self) -> None:
        """Forget all requests and scripts."""
        self.requests: list[ReceivedRequest] = []
        self.submits: Script = [self.accept]
        self.polls: Script = [self.ready()]
        self.downloads: Script = [Reply(raw=image())]
        self.credits = Reply(body={"credits": 123.5})

    def accept(self, _: ReceivedRequest) -> Reply:
        number = len(self.posts)
        url = f"{self.api_url}/v1/get_result?id=task-{number}"
        return Reply(body={"id": f"task-{number}", "polling_url": url, "cost": 3.0, "unknown": [1]})

    def ready(self, **fields: Any) -> Callable[[ReceivedRequest], Reply]:
        def reply(_: ReceivedRequest) -> Reply:
            sample = f"{self.delivery_url}/image?sig=abc"
            return Reply(body={"id": "x", "status": "Ready", "result": {"sample": sample}, **fields})

        return reply

    @property
    def posts(self) -> list[ReceivedRequest]:
        return [request for request in self.requests if request.method == "POST"]

    def count(self, start: str) -> int:
        return sum(request.path.startswith(start) for request in self.requests)

    def close(self) -> None:
        for server in (self.api, self.delivery):
            server.shutdown()
            server.server_close()

    def _serve(self, name: str) -> Server:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def _answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = ReceivedRequest(self.command, self.path, headers, body, self.client_address[1])
                provider._send(self, provider._reply(name, request))

            def log_message(self, *_: object) -> None:
                pass

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _reply(self, name: str, request: ReceivedRequest) -> Reply:
        with self._lock:
            self.requests.append(request)
            if request.path == "/v1/credits":
                return self.credits
            script = self.submits if request.method == "POST" else self.polls if name == "api" else self.downloads
            entry = script.pop(0) if len(script) > 1 else script[0]
        return entry if isinstance(entry, Reply) else entry(request)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        time.sleep(reply.seconds)
        if reply.hang_up:
            handler.close_connection = True
            return
        try:
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(reply.claim or len(reply.data)))
            handler.end_headers()
            for start in range(0, len(reply.data), 1) if reply.trickle else [None]:
                handler.wfile.write(reply.data if start is None else reply.data[start : start + 1])
                time.sleep(0.05 if reply.trickle else 0)
        except OSError:
            handler.close_connection = True
        if reply.claim is not None:
            handler.close_connection = True


@contextmanager
def provider() -> Iterator[Provider]:
    server = Provider()
    try:
        yield server
    finally:
        server.close()


def state(status: str, **fields: Any) -> Reply:
    """The response to a poll."""
    return Reply(body={"id": "x", "status": status, "result": None, **fields})


def refused(status: int, detail: Any = None, **headers: str) -> Reply:
    body = {"detail": detail}
    return Reply(status=status, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
