"""OpenTelemetry traces of requests through every process. Off unless the operator names an endpoint.

The trace context of a request is in the record of its job, because wake-ups name no job, and jobs are requeued and
reported by webhooks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from shared.errors import ConfigurationError
from shared.settings.explanations import install_command

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as LiveSpan

#: The standard variables that turn tracing on. OpenTelemetry's library reads all others itself.
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True)
class Span:
    """A finished operation. Times are in nanoseconds since 1970."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    kind: Literal["internal", "consumer", "client"] = "internal"
    error: str = ""
    """Why it failed; '' if it did not."""
    children: tuple["Span", ...] = ()


class Tracing:
    """Exports nothing: tracing is off."""

    is_on = False
    provider: "TracerProvider | None" = None

    def record(self, span: Span, traceparent: str) -> None:
        """Export the span as a child of the trace context, or as a root if that is ''."""

    def close(self) -> None:
        """Export the remaining spans. Blocks for a limited time."""


#: Starts exporting in the calling process only: the exporter is a thread, which a fork does not copy.
StartTracing = Callable[[], Tracing]


def start_tracing(service: str, environ: Mapping[str, str]) -> Tracing:
    """Raises ConfigurationError if tracing is on but its packages are missing."""
    wanted = [name for name in ENDPOINT_VARIABLES if environ.get(name)]
    if not wanted or environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigurationError(
            f"{wanted[0]} is set, but its packages are missing: {install_command('tracing')}"
        ) from None
    # A name given here would override the variable.
    name = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OpenTelemetryTracing(provider)


class OpenTelemetryTracing(Tracing):
    is_on = True

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider = provider
        self._shutdown = provider.shutdown
        self._tracer = provider.get_tracer("imagegen")
        self._contexts = TraceContextTextMapPropagator()
        self._kinds = {"internal": SpanKind.INTERNAL, "consumer": SpanKind.CONSUMER, "client": SpanKind.CLIENT}

    def record(self, span: Span, traceparent: str) -> None:
        from opentelemetry.trace import Status, StatusCode

        context = self._contexts.extract({"traceparent": traceparent})
        live = self._tracer.start_span(
            span.name, context, self._kinds[span.kind], dict(span.attributes), start_time=span.start_ns
        )
        if span.error:
            live.set_status(Status(StatusCode.ERROR, span.error))
        for child in span.children:
            self.record(child, self._traceparent(live))
        live.end(span.end_ns)

    def close(self) -> None:
        self._shutdown()

    def _traceparent(self, span: "LiveSpan") -> str:
        from opentelemetry.trace import set_span_in_context

        carrier: dict[str, str] = {}
        self._contexts.inject(carrier, set_span_in_context(span))
        return carrier["traceparent"]
