"""What is noted of each request: it is counted, timed and, where the operator wants that, logged and traced."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.edge.request_metrics import RequestMetrics
from shared.observability.tracing import NoTracing, RequestSpan, Tracing

logger = logging.getLogger("api.access")

#: Of requests that were answered before anybody looked where they lead, or that lead nowhere.
NO_ROUTE = "none"
#: Of requests whose caller had left before there was an answer.
NO_STATUS = 499
MOST_LOGGED = 300
#: Asked every few seconds by who watches.
UNTRACED = ("/health", "/metrics")
NOT_TRACED = NoTracing()


class Observability:
    def __init__(self, app: ASGIApp, metrics: RequestMetrics, tracing: Tracing, *, log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._tracing = tracing
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, begun, request = time.perf_counter(), False, self._traced(scope)

        async def watched(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start" and not begun:
                begun = True
                headers = dict(message.get("headers", ()))
                self._note(request, scope, message["status"], headers, time.perf_counter() - begin)
            await send(message)

        self._metrics.request_started()
        try:
            await self._app(scope, receive, watched)
        finally:
            self._metrics.request_finished()
            if not begun:
                self._note(request, scope, NO_STATUS, {}, time.perf_counter() - begin)
            request.end()

    def _traced(self, scope: Scope) -> RequestSpan:
        if not self._tracing.is_on or scope["path"].startswith(UNTRACED):
            return NOT_TRACED
        headers = dict(scope["headers"])
        return self._tracing.start_request(headers.get(b"traceparent", b"").decode("latin-1"))

    def _note(
        self, request: RequestSpan, scope: Scope, status: int, headers: dict[bytes, bytes], seconds: float
    ) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", NO_ROUTE)
        job_id = headers.get(b"x-job-id", b"").decode("latin-1")
        self._metrics.response_started(method, route, status, seconds)
        request.set_response(method, route, status, job_id)
        if self._log:
            # Without the query, which may open an image; as it was sent, so that it stays one line.
            path = scope.get("raw_path", b"").decode("latin-1")[:MOST_LOGGED]
            told = {"method": method, "status": status, "milliseconds": round(seconds * 1000, 1)}
            fields = told | ({"job_id": job_id} if job_id else {})
            logger.info("%s %s %d in %.0f ms", method, path, status, seconds * 1000, extra=fields)
