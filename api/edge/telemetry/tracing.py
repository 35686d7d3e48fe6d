"""Configures FastAPI's own OpenTelemetry spans of requests, and passes their context on to jobs."""

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.observability.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span, TracerProvider

#: Monitoring requests these every few seconds.
UNTRACED_PATHS = ("/health", "/metrics")
_PROPAGATOR = TraceContextTextMapPropagator()


def telemetry_config(tracing: Tracing) -> TelemetryConfig:
    """FastAPI records spans of requests only: metrics and logs are exported elsewhere."""
    if tracing.provider is not None:
        _redact_queries(tracing.provider)
    return TelemetryConfig(
        tracing=tracing.is_on,
        tracer_provider=tracing.provider,
        operation_spans=False,
        metrics=False,
        logs=False,
        auto_configure=False,
        exclude=_is_untraced,
    )


def current_traceparent() -> str:
    """The context of the current request as a `traceparent` header; '' if it is not traced."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get("traceparent", "")


def add_job_id(job_id: str) -> None:
    trace.get_current_span().set_attribute("imagegen.job.id", job_id)


def _is_untraced(scope: MutableMapping[str, Any]) -> bool:
    return str(scope["path"]).startswith(UNTRACED_PATHS)


def _redact_queries(provider: "TracerProvider") -> None:
    """FastAPI records `url.query`, which may hold prompts and the signatures of links."""
    from opentelemetry.sdk.trace import SpanProcessor

    class RedactQueries(SpanProcessor):
        def on_start(self, span: "Span", parent_context: "Context | None" = None) -> None:  # noqa: ARG002
            if "url.query" in (span.attributes or {}):
                span.set_attribute("url.query", "REDACTED")

    provider.add_span_processor(RedactQueries())
