"""Traces from HTTP through the queue to the worker and the webhook, as a real collector gets them."""

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
from tests.compose.monitoring.conftest import CANARY, simulated
from tests.shared.webhooks.receiver import Receiver, receiving
from tests.stack import Stack

PATIENCE_SECONDS = 20
#: As a caller sends it that is traced itself.
CALLER_TRACE, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Speaks OTLP over HTTP, and keeps what it was told."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[tuple[str, Span]] = []
        """With the name of the service that told."""
        self.headers: list[str | None] = []
        self._news: queue.Queue[None] = queue.Queue()

    def take(self, body: bytes) -> None:
        for told in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(each.value.string_value for each in told.resource.attributes if each.key == "service.name")
            self.spans += [(service, span) for scope in told.scope_spans for span in scope.spans]
        self._news.put(None)

    def trace(self, trace_id: str, names: set[str]) -> dict[str, Span]:
        """The spans of a trace by their names, once it has all of these."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = {span.name: span for _, span in self.spans if span.trace_id.hex() == trace_id}
            if names <= set(found):
                return found
            assert time.monotonic() < end, f"no {names - set(found)} in {[span.name for _, span in self.spans]}"
            self._news.get(timeout=PATIENCE_SECONDS)


@contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            collector.headers.append(self.headers["x-tenant"])
            collector.take(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield collector
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
    """A service that traces, and sends what it has ten times a second."""
    settings = {
        "SD_BACKENDS": "null",
        "SD_WEBHOOK_ALLOW": receiver.origin,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=own",
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
    assert attributes(request)["http.response.status_code"] == 200
    assert attributes(done)["imagegen.job.id"] == attributes(request)["imagegen.job.id"] == job["id"]
    assert attributes(done)["imagegen.job.outcome"] == "succeeded"
    assert attributes(done)["messaging.destination.name"] == "null"
    assert attributes(done)["gen_ai.request.model"] == "null"
    assert attributes(spans["POST"])["http.response.status_code"] == 204
    assert attributes(spans["POST"])["imagegen.webhook.outcome"] == "delivered"
    services = {service for service, span in collector.spans if span.trace_id.hex() == CALLER_TRACE}
    assert services == {"imagegen-api", "imagegen-worker", "imagegen-housekeeper"}
    assert set(collector.headers) == {"own"}


def test_a_failure_is_told_as_one(traced: Stack, collector: Collector) -> None:
    trace_id = "1" * 32
    traced.api.post(
        "/api/txt2img",
        {"prompt": "x", **simulated(fail="out-of-memory")},
        headers={"traceparent": f"00-{trace_id}-{'2' * 16}-01"},
    )

    spans = collector.trace(trace_id, {"process null", "POST /api/txt2img"})

    assert spans["process null"].status.message == "out-of-memory"
    assert attributes(spans["process null"])["error.type"] == "out-of-memory"
    assert spans["process null"].status.code == spans["POST /api/txt2img"].status.code == 2


def test_who_wants_not_to_be_traced_is_not_and_nonsense_is_no_parent(traced: Stack, collector: Collector) -> None:
    unsampled = "3" * 32
    traced.api.post("/api/txt2img", {"prompt": "x"}, headers={"traceparent": f"00-{unsampled}-{'4' * 16}-00"})
    job = traced.api.post("/api/txt2img", {"prompt": "x"}, headers={"traceparent": "nonsense"}).json()

    def mine() -> list[Span]:
        return [span for _, span in collector.spans if attributes(span).get("imagegen.job.id") == job["id"]]

    end = time.monotonic() + PATIENCE_SECONDS
    while len(mine()) < 2:
        assert time.monotonic() < end
        threading.Event().wait(0.05)
    assert len({span.trace_id for span in mine()}) == 1
    assert unsampled not in {span.trace_id.hex() for _, span in collector.spans}


def test_traces_tell_of_the_load_of_a_model_and_of_no_prompt_and_no_probe(traced: Stack, collector: Collector) -> None:
    requests.get(f"{traced.api.url}/health/live", timeout=10)
    names = {span.name for _, span in collector.spans}

    assert "load model" in names
    assert not [name for name in names if "/health" in name]
    assert CANARY not in str(collector.spans)
    assert "secret-of-the-caller" not in str(collector.spans)


def test_without_an_endpoint_nothing_is_traced() -> None:
    off = tracing.start_tracing("x", {"OTEL_TRACES_SAMPLER": "always_on"})

    assert isinstance(off, tracing.NoTracing)
    assert isinstance(
        tracing.start_tracing("x", {tracing.ENDPOINT_VARIABLES[0]: "http://x", "OTEL_SDK_DISABLED": "true"}), type(off)
    )
    assert off.request("") is off
    assert tracing.current_traceparent() == ""


def test_a_missing_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with pytest.raises(ConfigurationError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set, but .*imagegen\[tracing\]"):
        tracing.start_tracing("x", {tracing.ENDPOINT_VARIABLES[0]: "http://x"})
