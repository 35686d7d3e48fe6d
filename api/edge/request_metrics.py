"""What this process does itself: requests and how long they take, open streams, its own memory and time."""

import socket
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
#: Bounds of buckets. A call that waits for its image takes as long as the image.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class RequestMetrics:
    """Several processes may answer behind one address, each with figures of its own: so each says whose they are."""

    def __init__(self, streams: Callable[[], int], port: int) -> None:
        """`streams` counts the event streams that are open; `port` is the one that no other process here has."""
        # The same after a restart, which begins no new series.
        self.process = f"{socket.gethostname()}:{port}"
        self._registry = registry = CollectorRegistry()
        self._answered = Counter(
            "imagegen_http_requests", "Requests that were answered", ("method", "route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "imagegen_http_request_seconds",
            "From a request to the beginning of its answer",
            ("method", "route"),
            buckets=SECONDS,
            registry=registry,
        )
        self._open = Gauge("imagegen_http_requests_open", "Requests that are being answered", registry=registry)
        Gauge("imagegen_event_streams", "Event streams that are open", registry=registry).set_function(streams)
        # Reads /proc, and so tells nothing on systems without it.
        ProcessCollector(namespace="imagegen_api", registry=registry)

    def begins(self) -> None:
        self._open.inc()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the pattern of the address: of addresses themselves there is no end."""
        method = method if method in METHODS else "other"
        self._answered.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def ends(self) -> None:
        self._open.dec()

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [self._own(sample) for sample in family.samples if not sample.name.endswith("_created")]
            yield family

    def _own(self, sample: Sample) -> Sample:
        return sample._replace(labels={"process": self.process, **sample.labels})
