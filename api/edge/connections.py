"""Limits what a connection may cost before a request is read: a slot, the size of its head, the time it takes."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.edge.connection_limit import ConnectionLimit
from api.edge.public_paths import PROBES
from api.edge.security_headers import DEFAULTS
from api.problems import error_response
from shared.errors import HeadersTooLarge, MalformedRequest, RequestError, RequestTimedOut, TooManyConnections
from shared.settings.http_server import HttpServerSettings

#: How long a connection may stay idle between two requests. Load balancers and clients keep theirs for up to 60 s
#: (nginx, AWS), and now and then lose a request if the server closes first, as with uvicorn's default of 5 s.
IDLE_SECONDS = 75

_PROBES = frozenset(path.encode() for path in PROBES)


#: Lists, which clients may send in several headers (RFC 9110, 5.3). Who reads one gets the first.
_LISTS = frozenset((b"accept", b"accept-encoding", b"if-none-match", b"prefer"))


class Config(uvicorn.Config):
    def __init__(self, app: Any, settings: HttpServerSettings, limit: ConnectionLimit, **options: Any) -> None:
        super().__init__(app, http=Connection, timeout_keep_alive=IDLE_SECONDS, **options)
        self.settings = settings
        self.limit = limit


class RequestParser(httptools.HttpRequestParser):
    """Ignores requests for another protocol (RFC 9110, 7.8), and takes what follows for the body that it is.

    Java's HttpClient asks for HTTP/2 that way with every request. llhttp reads no body then, even if nobody upgrades.
    """

    def __init__(self, connection: "Connection") -> None:
        super().__init__(connection)
        # As uvicorn does.
        self.set_dangerous_leniencies(lenient_data_after_close=True)
        self._connection = connection

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        feed, parser, rest = httptools.HttpRequestParser.feed_data, self, memoryview(data)
        while rest:
            try:
                feed(parser, rest)
            except httptools.HttpParserUpgrade as upgrade:
                head = self._connection.take_head_to_repeat()
                if head is None:
                    raise
                rest = rest[upgrade.args[0] :]
                # A new one: a parser reads no further once it has read a request that closes the connection.
                parser = self._connection.parser = RequestParser(self._connection)
                feed(parser, head)
            else:
                return


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with the limits that neither it nor its parser has."""

    config: Config
    parser: RequestParser

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = RequestParser(self)
        self._head_to_repeat: bytes | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._error: RequestError = MalformedRequest()
        self._head_bytes = 0
        self._has_started = False
        self._head_timer: asyncio.TimerHandle | None = None
        self.config.limit.add(self, self.client[0] if self.client else None)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self.config.limit.remove(self)
        super().connection_lost(exc)

    def disconnect(self) -> None:
        self._stop_head_timer()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.config.settings.max_header_bytes:
                self._refuse(HeadersTooLarge())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_started, self._head_bytes = True, 0
        if self._head_timer is None:
            self._start_head_timer()

    def take_head_to_repeat(self) -> bytes | None:
        """The head that was just read, if it asks for another protocol; without that."""
        head, self._head_to_repeat = self._head_to_repeat, None
        return head

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers):
            version = self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
            lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            self._head_to_repeat = b"\r\n".join(lines) + b"\r\n\r\n"
            return
        self._stop_head_timer()
        head_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if head_bytes > self.config.settings.max_header_bytes:
            self._error = HeadersTooLarge()
            # The parser stops at an error, and uvicorn then calls send_400_response.
            raise self._error
        is_excess = self.config.limit.is_excess(self)
        if is_excess and self.url.partition(b"?")[0] not in _PROBES:
            self._error = TooManyConnections()
            raise self._error
        self.config.limit.mark_busy(self)
        self.headers[:] = _joined(self.headers)
        super().on_headers_complete()
        if is_excess:
            self.cycle.keep_alive = False
        if self.scope["http_version"] == "1.0":
            _end_with_connection(self.cycle)

    def on_message_complete(self) -> None:
        if self._head_to_repeat is None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self.config.limit.mark_idle(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - self._error is more precise
        self._refuse(self._error)

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.config.settings.header_timeout_seconds, self._time_out)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _time_out(self) -> None:
        self._head_timer = None
        if self._has_started:
            self._refuse(RequestTimedOut())
        elif not self.transport.is_closing():
            # Browsers open connections that they may not need, and expect no answer on them.
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        # An answer to an earlier request may be under way, and no other fits into it.
        if self.cycle is None or self.cycle.response_complete:
            answer = error_response(error, {"Connection": "close"})
            lines = [f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()]
            lines += [name + b": " + value for name, value in (*answer.raw_headers, *DEFAULTS)]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body))
        self.transport.close()


def _joined(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lists: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _LISTS:
            lists[name] = lists[name] + b", " + value if name in lists else value
    return [pair for pair in headers if pair[0] not in lists] + [*lists.items()]


def _end_with_connection(cycle: RequestResponseCycle) -> None:
    """Clients of HTTP/1.0 do not know chunks, which uvicorn sends if the length is unknown."""
    send, has_length = cycle.send, True

    async def send_unframed(message: Any) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
            if not has_length:
                cycle.chunked_encoding = False
        elif not has_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_unframed  # type: ignore[method-assign]
