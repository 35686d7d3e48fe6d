"""Traces for OpenTelemetry: where the time of a request went, through every process. Off unless the operator wants it.

The context of a request travels in the record of its job: the message that wakes a worker names none, and
jobs are put back into the queue and told of in webhooks.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as LiveSpan

#: The standard variables that turn it on; the others of OpenTelemetry are read by its own library.
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_current: ContextVar[str] = ContextVar("traceparent", default="")


def current_traceparent() -> str:
    """The context of what this task does now, as a `traceparent` header has it; '' for none."""
    return _current.get()


@dataclass(frozen=True)
class Span:
    """Something that is over. Times are in nanoseconds since 1970."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    kind: Literal["internal", "consumer", "client"] = "internal"
    error: str = ""
    """What it failed with; '' where it did not."""
    children: tuple["Span", ...] = ()


class RequestSpan(Protocol):
    """A request that is being answered."""

    def set_response(self, method: str, route: str, status: int, job_id: str) -> None: ...

    def end(self) -> None: ...


class Tracing(Protocol):
    is_on: bool

    def start_request(self, traceparent: str) -> RequestSpan:
        """Start the span of a request, in the caller's trace if it has one; `current_traceparent` is its context until
        it ends."""
        ...

    def record(self, span: Span, traceparent: str) -> None:
        """Of something that was part of what has this context, or of nothing ('')."""
        ...

    def close(self) -> None:
        """Send what is left. Blocks, but not for ever."""
        ...


class NoTracing:
    is_on = False

    def start_request(self, _: str) -> RequestSpan:
        return self

    def set_response(self, *_: object) -> None:
        pass

    def end(self) -> None:
        pass

    def record(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


#: Begins to send traces, in the process that calls it and no other: what sends is a thread.
StartTracing = Callable[[], Tracing]


def start_tracing(service: str, environ: Mapping[str, str]) -> Tracing:
    """Raises ConfigurationError where traces are wanted and cannot be sent."""
    wanted = [name for name in ENDPOINT_VARIABLES if environ.get(name)]
    if not wanted or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return NoTracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigurationError(
            f"{wanted[0]} is set, but what sends traces is not installed: pip install 'imagegen[tracing]'."
        ) from None
    # What is named here would win over the variable.
    name = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetryTracing(provider)


class OpenTelemetryTracing:
    is_on = True

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("imagegen")
        self._contexts = TraceContextTextMapPropagator()
        self._kinds = {"internal": SpanKind.INTERNAL, "consumer": SpanKind.CONSUMER, "client": SpanKind.CLIENT}
        self._server = SpanKind.SERVER

    def start_request(self, traceparent: str) -> RequestSpan:
        context = self._contexts.extract({"traceparent": traceparent})
        span = self._tracer.start_span("request", context, self._server)
        return _LiveRequestSpan(span, self._traceparent(span))

    def record(self, span: Span, traceparent: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        context = self._contexts.extract({"traceparent": traceparent})
        told = self._tracer.start_span(
            span.name, context, self._kinds[span.kind], dict(span.attributes), start_time=span.start_ns
        )
        if span.error:
            told.set_status(Status(StatusCode.ERROR, span.error))
        for child in span.children:
            self.record(child, self._traceparent(told))
        told.end(span.end_ns)

    def close(self) -> None:
        self._provider.shutdown()

    def _traceparent(self, span: "LiveSpan") -> str:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._contexts.inject(carrier, set_span_in_context(span))
        return carrier["traceparent"]


class _LiveRequestSpan:
    def __init__(self, span: "LiveSpan", traceparent: str) -> None:
        self._span = span
        self._token = _current.set(traceparent)

    def set_response(self, method: str, route: str, status: int, job_id: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.update_name(f"{method} {route}")
        self._span.set_attributes(
            {"http.request.method": method, "http.route": route, "http.response.status_code": status}
        )
        if job_id:
            self._span.set_attribute("imagegen.job.id", job_id)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        _current.reset(self._token)
        self._span.end()
