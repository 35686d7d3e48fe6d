"""Counts what this process does: requests, their durations, open event streams, its memory and CPU time."""

import socket
from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
#: Bounds of buckets. A call that waits for its image takes as long as the image.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class RequestMetrics:
    """Several processes may answer behind one address, so every sample names its process."""

    def __init__(self, open_streams: Callable[[], int], port: int) -> None:
        # Host and port stay the same after a restart, which therefore begins no new time series.
        self.process = f"{socket.gethostname()}:{port}"
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "imagegen_http_requests", "Requests that were answered", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "imagegen_http_request_seconds",
            "Time from a request to the first byte of its answer",
            ("method", "route"),
            buckets=SECONDS,
            registry=registry,
        )
        # The library looks each of them up under a lock.
        self._of = cache(
            lambda method, route, status: (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(method, route),
            )
        )
        self.open_requests = Gauge("imagegen_http_requests_open", "Requests in progress", registry=registry)
        Gauge("imagegen_event_streams", "Open event streams", registry=registry).set_function(open_streams)
        # Reads /proc, and reports nothing on systems without it.
        ProcessCollector(namespace="imagegen_api", registry=registry)

    def response_started(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the pattern of the path: paths themselves are unlimited in number."""
        method = method if method in METHODS else "other"
        count, durations = self._of(method, route, status)
        count.inc()
        durations.observe(seconds)

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            samples = (sample for sample in family.samples if not sample.name.endswith("_created"))
            family.samples = [self._with_process(sample) for sample in samples]
            yield family

    def _with_process(self, sample: Sample) -> Sample:
        return sample._replace(labels={"process": self.process, **sample.labels})
