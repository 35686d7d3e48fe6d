"""Counts and times each request, and logs it if the operator wants that."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.edge.telemetry.metrics import RequestMetrics
from api.edge.telemetry.tracing import add_job_id

logger = logging.getLogger("api.access")

#: The route of requests that match none, or that middleware answers.
NO_ROUTE = "none"
#: The status of requests whose client left before an answer.
CLIENT_CLOSED_REQUEST = 499
MAX_LOGGED_PATH = 300


class RequestTelemetry:
    def __init__(self, app: ASGIApp, metrics: RequestMetrics, *, log: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, has_started = time.perf_counter(), False

        async def observe(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start" and not has_started:
                has_started = True
                job_id = next((value for name, value in message.get("headers", ()) if name == b"x-job-id"), b"")
                self._record(scope, message["status"], job_id.decode("latin-1"), time.perf_counter() - start)
            await send(message)

        with self._metrics.open_requests.track_inprogress():
            try:
                await self._app(scope, receive, observe)
            finally:
                if not has_started:
                    self._record(scope, CLIENT_CLOSED_REQUEST, "", time.perf_counter() - start)

    def _record(self, scope: Scope, status: int, job_id: str, seconds: float) -> None:
        method, route = scope["method"], getattr(scope.get("route"), "path", NO_ROUTE)
        self._metrics.response_started(method, route, status, seconds)
        if job_id:
            add_job_id(job_id)
        if self._log:
            # Without the query, whose signature may open an image. The raw path stays one line.
            path = scope.get("raw_path", b"").decode("latin-1")[:MAX_LOGGED_PATH]
            fields = {"method": method, "status": status, "milliseconds": round(seconds * 1000, 1)}
            fields |= {"job_id": job_id} if job_id else {}
            # One line, whatever a provider has written into it.
            reason = " ".join(scope.get("state", {}).get("reason", "").split())
            ending = f": {reason}" if reason else ""
            logger.info("%s %s %d in %.0f ms%s", method, path, status, seconds * 1000, ending, extra=fields)
