"""Passes the requests of n8n on to the service, and records both sides for the tests that replay them."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")
#: What signs a link to an image.
SIGNED = ("expires", "signature")
#: What differs from run to run.
VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"), "JOB"),
    (re.compile(r'http://(?:localhost|127\.0\.0\.1):\d+/webhook-waiting/[^\s"]*'), "RESUME_URL"),
    (re.compile(r"n8n \d+ [0-9a-f]{12}"), "LABEL"),
)


@dataclass(frozen=True)
class Exchange:
    """A request and the response to it, without what differs from run to run."""

    method: str
    path: str
    query: dict[str, str]
    accept: str | None
    """None if the client accepts anything, as it does where the workflow says nothing."""
    has_key: bool
    """Whether it has an Idempotency-Key."""
    body: dict[str, Any] | None
    status: int
    content_type: str
    code: str | None
    """The code of a problem."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def exchange(
    method: str, url: str, headers: dict[str, str], body: bytes, status: int, response: tuple[str, bytes]
) -> Exchange:
    """`headers` have names in lower case; `response` is the type of the content, and the content."""
    parts = urlsplit(url)
    accept = headers.get("accept", "")
    is_json = headers.get("content-type", "").startswith("application/json")
    content_type, content = response
    return Exchange(
        method,
        _stable(parts.path),
        {name: "…" if name in SIGNED else _stable(value) for name, value in parse_qsl(parts.query)},
        accept if accept.startswith("image/") else None,
        "idempotency-key" in headers,
        json.loads(_stable(body.decode())) if body and is_json else None,
        status,
        content_type.partition(";")[0],
        json.loads(content)["code"] if content_type.startswith("application/problem+json") else None,
    )


def _stable(text: str) -> str:
    for pattern, name in VOLATILE:
        text = pattern.sub(name, text)
    return text


class Recorder:
    """A proxy in front of the service."""

    def __init__(self, service_url: str) -> None:
        self.service_url = service_url
        self.exchanges: list[Exchange] = []
        self.keys: list[str] = []
        """The Idempotency-Keys in the order in which they were sent."""
        self.url = ""

    def forget(self) -> None:
        self.exchanges.clear()
        self.keys.clear()


@contextmanager
def recording(service_url: str) -> Iterator[Recorder]:
    recorder = Recorder(service_url)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _pass_on(self, recorder)

        def do_POST(self) -> None:
            _pass_on(self, recorder)

        def do_DELETE(self) -> None:
            _pass_on(self, recorder)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorder.url = f"http://localhost:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()


def _pass_on(handler: BaseHTTPRequestHandler, recorder: Recorder) -> None:
    """An unreachable service looks like a lost connection."""
    headers = {name.lower(): value for name, value in handler.headers.items()}
    body = handler.rfile.read(int(headers.get("content-length", 0)))
    upstream = http.client.HTTPConnection(recorder.service_url.removeprefix("http://"), timeout=180)
    upstream.request(handler.command, handler.path, body, headers)
    response = upstream.getresponse()
    content = response.read()
    kind = response.getheader("content-type", "")
    recorder.exchanges.append(exchange(handler.command, handler.path, headers, body, response.status, (kind, content)))
    if "idempotency-key" in headers:
        recorder.keys.append(headers["idempotency-key"])
    handler.send_response(response.status)
    for name, value in response.getheaders():
        if name.lower() not in HOP_BY_HOP:
            handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
    upstream.close()
