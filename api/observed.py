"""What is noted of each request: it is counted, timed and, where the operator wants that, logged."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.traffic import Traffic

logger = logging.getLogger("api.access")

#: Of requests that were answered before anybody looked where they lead, or that lead nowhere.
NO_ROUTE = "none"
#: Of requests whose caller had left before there was an answer.
NO_STATUS = 499
MOST_LOGGED = 300


class Observed:
    def __init__(self, app: ASGIApp, traffic: Traffic, *, log: bool) -> None:
        self._app = app
        self._traffic = traffic
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, begun = time.perf_counter(), False

        async def watched(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and not begun:
                begun = True
                self._note(scope, message["status"], dict(message.get("headers", ())), time.perf_counter() - begin)
            await send(message)

        self._traffic.begins()
        try:
            await self._app(scope, receive, watched)
        finally:
            self._traffic.ends()
            if not begun:
                self._note(scope, NO_STATUS, {}, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, headers: dict[bytes, bytes], seconds: float) -> None:
        route = getattr(scope.get("route"), "path", NO_ROUTE)
        self._traffic.answered(scope["method"], route, status, seconds)
        if self._log:
            # Without the query, which may open a picture; as it was sent, so that it stays one line.
            path = scope.get("raw_path", b"").decode("ascii", "replace")[:MOST_LOGGED]
            job_id = headers.get(b"x-job-id", b"").decode("ascii", "replace")
            told = {"method": scope["method"], "status": status, "milliseconds": round(seconds * 1000, 1)}
            fields = told | ({"job_id": job_id} if job_id else {})
            logger.info("%s %s %d in %.0f ms", scope["method"], path, status, seconds * 1000, extra=fields)
