"""Traces for OpenTelemetry: where the time of a request went, through every process. Off unless the operator wants it.

The context of a request travels in the record of its job: the message that wakes a worker names none, and
jobs are put back into the queue and told of in webhooks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as LiveSpan

#: The standard variables that turn it on; the others of OpenTelemetry are read by its own library.
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


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


class Tracing(Protocol):
    is_on: bool
    provider: "TracerProvider | None"

    def record(self, span: Span, traceparent: str) -> None:
        """Of something that was part of what has this context, or of nothing ('')."""
        ...

    def close(self) -> None:
        """Send what is left. Blocks, but not for ever."""
        ...


class NoTracing:
    is_on = False
    provider: "TracerProvider | None" = None

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

        self.provider: TracerProvider | None = provider
        self._shutdown = provider.shutdown
        self._tracer = provider.get_tracer("imagegen")
        self._contexts = TraceContextTextMapPropagator()
        self._kinds = {"internal": SpanKind.INTERNAL, "consumer": SpanKind.CONSUMER, "client": SpanKind.CLIENT}

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
        self._shutdown()

    def _traceparent(self, span: "LiveSpan") -> str:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._contexts.inject(carrier, set_span_in_context(span))
        return carrier["traceparent"]
