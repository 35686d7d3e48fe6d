"""Traces from the request through the queue to worker and webhook, as a collector receives them."""

import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from shared.errors import ConfigurationError
from shared.observability import tracing
from tests.compose.monitoring.conftest import CANARY, simulation
from tests.shared.webhooks.receiver import Receiver, receiving
from tests.stack import Stack

TIMEOUT_SECONDS = 20
#: The trace context of a caller.
CALLER_TRACE, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Receives spans as OTLP over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[tuple[str, Span]] = []
        """With the name of the service that sent it."""
        self.headers: list[str | None] = []
        self._received: queue.Queue[None] = queue.Queue()

    def receive(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(
                attribute.value.string_value
                for attribute in resource.resource.attributes
                if attribute.key == "service.name"
            )
            self.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        self._received.put(None)

    def trace(self, trace_id: str, names: set[str]) -> dict[str, Span]:
        """The spans of a trace by name, once all of these names have arrived."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while True:
            spans = {span.name: span for _, span in self.spans if span.trace_id.hex() == trace_id}
            if names <= set(spans):
                return spans
            assert time.monotonic() < end, f"no {names - set(spans)} in {[span.name for _, span in self.spans]}"
            self._received.get(timeout=TIMEOUT_SECONDS)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            received.headers.append(self.headers["x-tenant"])
            received.receive(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield received
        server.shutdown()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(
    redis_url: str, collector: Collector, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A service that exports its spans ten times a second."""
    settings = {
        "SD_BACKENDS": "null",
        "SD_WEBHOOK_ALLOW": receiver.origin,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=acme",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with Stack(redis_url, tmp_path_factory.mktemp("traces"), **settings) as stack:
        stack.start_worker("null")
        stack.start_api()
        stack.start_housekeeper()
        yield stack


def attributes(span: Span) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def test_a_request_is_one_trace_through_every_process(traced: Stack, collector: Collector, receiver: Receiver) -> None:
    headers = {"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"}
    body = {"prompt": CANARY, "webhook_url": receiver.url}
    job = traced.api.post("/api/txt2img", body, headers=headers).json()

    inside = ["wait", "load", "render", "encode", "record"]
    spans = collector.trace(CALLER_TRACE, {"POST /api/txt2img", "process null", "POST", *inside})

    request, done = spans["POST /api/txt2img"], spans["process null"]
    assert request.parent_span_id.hex() == CALLER_SPAN
    assert done.parent_span_id == spans["POST"].parent_span_id == request.span_id
    assert {spans[name].parent_span_id for name in inside} == {done.span_id}
    starts = [spans[name].start_time_unix_nano for name in inside]
    assert starts == sorted(starts)
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans.values())
    assert done.end_time_unix_nano == spans["record"].end_time_unix_nano
    assert (
        attributes(request).items()
        >= {
            "http.request.method": "POST",
            "url.path": "/api/txt2img",
            "http.route": "/api/txt2img",
            "http.response.status_code": 200,
        }.items()
    )
    assert attributes(done)["imagegen.job.id"] == attributes(request)["imagegen.job.id"] == job["id"]
    assert attributes(done)["imagegen.job.outcome"] == "succeeded"
    assert attributes(done)["messaging.destination.name"] == "null"
    assert attributes(done)["gen_ai.request.model"] == "null"
    assert attributes(spans["POST"])["http.response.status_code"] == 204
    assert attributes(spans["POST"])["imagegen.webhook.outcome"] == "delivered"
    services = {service for service, span in collector.spans if span.trace_id.hex() == CALLER_TRACE}
    assert services == {"imagegen-api", "imagegen-worker", "imagegen-housekeeper"}
    assert set(collector.headers) == {"acme"}


def test_a_failed_job_is_a_failed_span(traced: Stack, collector: Collector) -> None:
    trace_id = "1" * 32
    traced.api.post(
        "/api/txt2img",
        {"prompt": "x", **simulation(fail="out-of-memory")},
        headers={"traceparent": f"00-{trace_id}-{'2' * 16}-01"},
    )

    spans = collector.trace(trace_id, {"process null", "POST /api/txt2img"})

    assert spans["process null"].status.message == "out-of-memory"
    assert attributes(spans["process null"])["error.type"] == "out-of-memory"
    assert spans["process null"].status.code == spans["POST /api/txt2img"].status.code == 2


def test_unsampled_requests_are_not_traced_and_malformed_parents_are_ignored(
    traced: Stack, collector: Collector
) -> None:
    unsampled = "3" * 32
    traced.api.post("/api/txt2img", {"prompt": "x"}, headers={"traceparent": f"00-{unsampled}-{'4' * 16}-00"})
    job = traced.api.post("/api/txt2img", {"prompt": "x"}, headers={"traceparent": "nonsense"}).json()

    def spans_of_job() -> list[Span]:
        return [span for _, span in collector.spans if attributes(span).get("imagegen.job.id") == job["id"]]

    end = time.monotonic() + TIMEOUT_SECONDS
    while len(spans_of_job()) < 2:
        assert time.monotonic() < end
        threading.Event().wait(0.05)
    assert len({span.trace_id for span in spans_of_job()}) == 1
    assert unsampled not in {span.trace_id.hex() for _, span in collector.spans}


def test_traces_contain_model_loading_but_no_prompt_and_no_probe(traced: Stack, collector: Collector) -> None:
    requests.get(f"{traced.api.url}/health/live", timeout=10)
    names = {span.name for _, span in collector.spans}

    assert "load model" in names
    assert not [name for name in names if "/health" in name]
    assert CANARY not in str(collector.spans)
    assert "secret-of-the-caller" not in str(collector.spans)


def test_queries_are_redacted_because_they_hold_prompts_and_signatures(traced: Stack, collector: Collector) -> None:
    trace_id = "5" * 32
    headers = {"traceparent": f"00-{trace_id}-{'6' * 16}-01"}
    traced.api.get("/api/jobs", params={"label": CANARY}, headers=headers)

    span = collector.trace(trace_id, {"GET /api/jobs"})["GET /api/jobs"]

    assert attributes(span)["url.query"] == "REDACTED"
    assert CANARY not in str(span)


def test_without_an_endpoint_nothing_is_traced() -> None:
    off = tracing.start_tracing("x", {"OTEL_TRACES_SAMPLER": "always_on"})
    disabled = {tracing.ENDPOINT_VARIABLES[0]: "http://x", "OTEL_SDK_DISABLED": "true"}

    assert (off.is_on, off.provider) == (False, None)
    assert not tracing.start_tracing("x", disabled).is_on


def test_a_missing_library_is_reported_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set, but .*\[tracing\]"):
        tracing.start_tracing("x", {tracing.ENDPOINT_VARIABLES[0]: "http://x"})
