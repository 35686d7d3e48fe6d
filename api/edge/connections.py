"""What a connection may cost before there is a request: a place, bytes of its head, the time until that is complete."""

import asyncio
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.edge.connection_limit import ConnectionLimit
from api.edge.public_paths import PROBES
from api.edge.security_headers import DEFAULTS
from api.problems import error_response
from shared.errors import HeadersTooLarge, MalformedRequest, RequestError, RequestTimedOut, TooManyConnections
from shared.settings.http_server import HttpServerSettings

#: How long a connection may be idle between two requests. Load balancers and clients keep theirs for up to 60 s (nginx,
#: AWS), and lose a request now and then where the server is the first to hang up, as with uvicorn's own 5 s.
IDLE_SECONDS = 75


_PROBES = frozenset(path.encode() for path in PROBES)


class Config(uvicorn.Config):
    """uvicorn's configuration, with the doors' own."""

    def __init__(self, app: Any, doors: HttpServerSettings, crowd: ConnectionLimit, **options: Any) -> None:
        super().__init__(app, http=Connection, timeout_keep_alive=IDLE_SECONDS, **options)
        self.doors = doors
        self.crowd = crowd


class Connection(HttpToolsProtocol):
    """Neither the parser nor uvicorn has a limit of its own."""

    config: Config

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._problem: RequestError = MalformedRequest()
        self._head_bytes = 0
        self._begun = False
        self._timer: asyncio.TimerHandle | None = None
        self.config.crowd.enter(self, self.client[0] if self.client else None)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.config.crowd.leave(self)
        super().connection_lost(exc)

    def hang_up(self) -> None:
        self._stop_waiting()
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._timer is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.config.doors.max_header_bytes:
                self._refuse(HeadersTooLarge())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._head_bytes = True, 0
        if self._timer is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._most:
            self._problem = HeadersTooLarge()
            # The parser stops at an error, and has uvicorn ask for the answer to it.
            raise self._problem
        late = self.config.crowd.is_late(self)
        if late and self.url.partition(b"?")[0] not in _PROBES:
            self._problem = TooManyConnections()
            raise self._problem
        self.config.crowd.work(self)
        super().on_headers_complete()
        if late:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self.config.crowd.rest(self)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - what went wrong is known better here
        self._refuse(self._problem)

    @property
    def _most(self) -> int:
        return self.config.doors.max_header_bytes

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.config.doors.header_timeout_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._begun:
            self._refuse(RequestTimedOut())
        elif not self.transport.is_closing():
            # Browsers open connections that they may not need, and are not to be told of it.
            self.transport.close()

    def _refuse(self, error: RequestError) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        # In the middle of an answer to an earlier request there is no place for another one.
        if self.cycle is None or self.cycle.response_complete:
            answer = error_response(error, {"Connection": "close"})
            lines = [f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()]
            lines += [name + b": " + value for name, value in (*answer.raw_headers, *DEFAULTS)]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body))
        self.transport.close()
