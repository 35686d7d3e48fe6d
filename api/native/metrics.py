"""Serves /metrics for Prometheus."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from math import inf
from types import SimpleNamespace

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from api.problems import problem_responses
from api.services import Services, ServicesDep
from shared.errors import StoreUnavailable
from shared.jobs.types import Backend
from shared.observability.counters import COUNTERS, HISTOGRAMS, Counter, Histogram
from shared.observability.gauges import Gauges, read_gauges
from shared.storage.object_store import DiskUsage
from shared.workers.records import Fleet, WorkerState

router = APIRouter(tags=["service"])


@router.get(
    "/metrics",
    operation_id="getMetrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **problem_responses("forbidden")},
)
async def get_metrics(http: Request, services: ServicesDep) -> Response:
    """Get metrics in the text format of Prometheus.

    Metrics with the label `process` describe this process. All others describe the whole service, and every process
    returns the same values.
    """
    try:
        gauges = await services.store.run(read_gauges(services.settings.redis_prefix))
        families = [_redis_up(services, 1), *_service_metrics(services, await services.fleet_cache.get(), gauges)]
    except StoreUnavailable:
        families = [_redis_up(services, 0)]
    families += [*_process_metrics(services, await services.disk_space.usage()), *services.request_metrics.collect()]
    encode, media_type = choose_encoder(http.headers.get("accept", ""))
    # It takes anything with a `collect`.
    text = encode(SimpleNamespace(collect=lambda: families))
    return Response(text, headers={"Content-Type": media_type})


def _gauge(name: str, help_text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"imagegen_{name}", help_text, labels=labels)


def _redis_up(services: Services, value: int) -> Metric:
    family = _gauge("redis_up", "Whether Redis responds to this process", "process")
    family.add_metric([services.request_metrics.process], value)
    return family


def _process_metrics(services: Services, disk: DiskUsage) -> Iterator[Metric]:
    process = services.request_metrics.process
    build_info = _gauge("build_info", "Version of the service", "process", "version")
    build_info.add_metric([process, services.version], 1)
    yield build_info
    for name, help_text, value in (
        ("outputs_free_bytes", "Free space on the disk of the images", disk.free_bytes),
        ("outputs_size_bytes", "Size of that disk", disk.size_bytes),
    ):
        if value is not None:
            family = _gauge(name, help_text, "process")
            family.add_metric([process], value)
            yield family


def _service_metrics(services: Services, fleet: Fleet, gauges: Gauges) -> Iterator[Metric]:
    backends = [backend for backend in Backend if services.is_offered(fleet, backend)]
    for counter in COUNTERS:
        yield _counter(counter, backends, gauges)
    for histogram in HISTOGRAMS:
        yield _histogram(histogram, backends, gauges)
    yield from _queue_metrics(backends, gauges, services.clock.now())
    yield from _worker_metrics(backends, fleet)
    webhooks = _gauge("webhooks", "Webhooks waiting for delivery (pending) and given up (dead)", "state")
    for state, count in gauges.webhooks.items():
        webhooks.add_metric([state], count)
    yield webhooks


def _counter(counter: Counter, backends: Iterable[Backend], gauges: Gauges) -> Metric:
    family = CounterMetricFamily(f"imagegen_{counter.name}", counter.help, labels=counter.labels)
    prefixes = [(backend,) for backend in backends] if "backend" in counter.labels else [()]
    expected = dict.fromkeys(((*first, *rest) for first in prefixes for rest in counter.expected), 0)
    for values, count in (expected | gauges.counts.values(counter)).items():
        family.add_metric(values, count)
    return family


def _histogram(histogram: Histogram, backends: Iterable[Backend], gauges: Gauges) -> Metric:
    family = HistogramMetricFamily(f"imagegen_{histogram.name}_seconds", histogram.help, labels=("backend",))
    for backend in backends:
        distribution = gauges.counts.distribution(histogram, backend)
        buckets = [("+Inf" if bound == inf else f"{bound:g}", count) for bound, count in distribution.below]
        family.add_metric([backend], buckets, distribution.sum_seconds)
    return family


def _queue_metrics(backends: Iterable[Backend], gauges: Gauges, now: datetime) -> Iterator[Metric]:
    queued = _gauge("queue_jobs", "Queued jobs", "backend")
    oldest = _gauge("queue_oldest_seconds", "Waiting time of the oldest queued job; 0 for none", "backend")
    running = _gauge("jobs_running", "Running jobs", "backend")
    for backend in backends:
        since = gauges.waiting_since.get(backend, now)
        queued.add_metric([backend], gauges.queued[backend])
        oldest.add_metric([backend], max(0.0, (now - since).total_seconds()))
        running.add_metric([backend], gauges.running[backend])
    yield from (queued, oldest, running)


def _worker_metrics(backends: Iterable[Backend], fleet: Fleet) -> Iterator[Metric]:
    workers = _gauge("workers", "Workers by state", "backend", "state")
    credits_left = _gauge("provider_credits", "Credits left at the cloud provider", "backend")
    for backend in backends:
        of_backend = fleet.workers_of(backend)
        for state in WorkerState:
            workers.add_metric([backend, state], sum(worker.state is state for worker in of_backend))
        known = [worker.credits for worker in of_backend if worker.credits is not None]
        if known:
            credits_left.add_metric([backend], known[0])
    yield from (workers, credits_left, _model_metric(backends, fleet), *_memory_metrics(backends, fleet))


def _model_metric(backends: Iterable[Backend], fleet: Fleet) -> Metric:
    """Without names of models, which would be new series."""
    models = _gauge("models_loaded", "Models in the memory of all workers", "backend", "place")
    for backend in backends:
        held = [model for worker in fleet.workers_of(backend) for model in worker.models]
        for place, on_device in (("device", True), ("main-memory", False)):
            models.add_metric([backend, place], sum(model.on_device is on_device for model in held))
    return models


def _memory_metrics(backends: Iterable[Backend], fleet: Fleet) -> Iterator[Metric]:
    """Workers are numbered from the longest-running one, because names would begin new series at each restart."""
    labels = ("backend", "worker", "device")
    used = _gauge("device_memory_used_bytes", "Memory in use on the device of a worker, by all programs", *labels)
    size = _gauge("device_memory_size_bytes", "Memory of the device of a worker", *labels)
    for backend in backends:
        for number, worker in enumerate(sorted(fleet.workers_of(backend), key=lambda worker: worker.started_at)):
            if worker.memory is not None:
                values = [backend, str(number), worker.device or ""]
                used.add_metric(values, worker.memory.used_bytes)
                size.add_metric(values, worker.memory.size_bytes)
    yield from (used, size)
