"""/metrics: how the service is doing, for Prometheus."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from math import inf

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from api.problems import documented
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
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}, **documented("unauthorized", "forbidden", "rate-limited")},
)
async def metrics(http: Request, services: ServicesDep) -> Response:
    """How the service is doing, in the text format of Prometheus.

    What has `process` as a label is told of this one process; all else is told of the whole service, and is the same
    whichever process is asked.
    """
    try:
        told = await services.store.run(read_gauges(services.settings.redis_prefix))
        families = [_up(services, 1), *_common(services, await services.watch.fleet(), told)]
    except StoreUnavailable:
        families = [_up(services, 0)]
    families += [*_own(services, await services.disk.seen()), *services.traffic.collect()]
    encode, media_type = choose_encoder(http.headers.get("accept", ""))
    return Response(encode(_Families(families)), headers={"Content-Type": media_type})


@dataclass(frozen=True)
class _Families:
    families: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _gauge(name: str, told: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"imagegen_{name}", told, labels=labels)


def _up(services: Services, up: int) -> Metric:
    family = _gauge("redis_up", "Whether Redis answers this process", "process")
    family.add_metric([services.traffic.process], up)
    return family


def _own(services: Services, disk: DiskUsage) -> Iterator[Metric]:
    process = services.traffic.process
    built = _gauge("build_info", "Version of the service", "process", "version")
    built.add_metric([process, services.version], 1)
    yield built
    for name, told, value in (
        ("outputs_free_bytes", "Free space on the disk that images are on", disk.free_bytes),
        ("outputs_size_bytes", "Size of that disk", disk.size_bytes),
    ):
        if value is not None:
            family = _gauge(name, told, "process")
            family.add_metric([process], value)
            yield family


def _common(services: Services, fleet: Fleet, told: Gauges) -> Iterator[Metric]:
    backends = [backend for backend in Backend if services.is_known(fleet, backend)]
    for counter in COUNTERS:
        yield _counted(counter, backends, told)
    for histogram in HISTOGRAMS:
        yield _distributed(histogram, backends, told)
    yield from _line(backends, told, services.clock.now())
    yield from _staff(backends, fleet)
    webhooks = _gauge("webhooks", "Webhooks on their way (pending) and given up (dead)", "state")
    for state, count in told.webhooks.items():
        webhooks.add_metric([state], count)
    yield webhooks


def _counted(counter: Counter, backends: Iterable[Backend], told: Gauges) -> Metric:
    family = CounterMetricFamily(f"imagegen_{counter.name}", counter.help, labels=counter.labels)
    known = [(backend,) for backend in backends] if "backend" in counter.labels else [()]
    expected = dict.fromkeys(((*first, *rest) for first in known for rest in counter.expected), 0)
    for values, count in (expected | told.counts.of(counter)).items():
        family.add_metric(values, count)
    return family


def _distributed(histogram: Histogram, backends: Iterable[Backend], told: Gauges) -> Metric:
    family = HistogramMetricFamily(f"imagegen_{histogram.name}_seconds", histogram.help, labels=("backend",))
    for backend in backends:
        own = told.counts.distribution(histogram, backend)
        buckets = [("+Inf" if bound == inf else f"{bound:g}", count) for bound, count in own.below]
        family.add_metric([backend], buckets, own.sum_seconds)
    return family


def _line(backends: Iterable[Backend], told: Gauges, now: datetime) -> Iterator[Metric]:
    queued = _gauge("queue_jobs", "Jobs that wait", "backend")
    oldest = _gauge("queue_oldest_seconds", "How long the job has waited that waits longest; 0 for none", "backend")
    running = _gauge("jobs_running", "Jobs that run", "backend")
    for backend in backends:
        since = told.waiting_since.get(backend, now)
        queued.add_metric([backend], told.queued[backend])
        oldest.add_metric([backend], max(0.0, (now - since).total_seconds()))
        running.add_metric([backend], told.running[backend])
    yield from (queued, oldest, running)


def _staff(backends: Iterable[Backend], fleet: Fleet) -> Iterator[Metric]:
    workers = _gauge("workers", "Workers, by what they do", "backend", "state")
    credits_left = _gauge("provider_credits", "What the account with the provider still has", "backend")
    for backend in backends:
        staff = fleet.workers_of(backend)
        for state in WorkerState:
            workers.add_metric([backend, state], sum(worker.state is state for worker in staff))
        known = [worker.credits for worker in staff if worker.credits is not None]
        if known:
            credits_left.add_metric([backend], known[0])
    yield from (workers, credits_left, *_memory(backends, fleet))


def _memory(backends: Iterable[Backend], fleet: Fleet) -> Iterator[Metric]:
    """By number, those that have run for longest first: names would begin new series at each restart."""
    labels = ("backend", "worker", "device")
    used = _gauge("device_memory_used_bytes", "Memory in use on the device of a worker, by all programs", *labels)
    size = _gauge("device_memory_size_bytes", "Memory of the device of a worker", *labels)
    for backend in backends:
        for number, worker in enumerate(sorted(fleet.workers_of(backend), key=lambda worker: worker.started_at)):
            if worker.memory is not None:
                own = [backend, str(number), worker.device or ""]
                used.add_metric(own, worker.memory.used_bytes)
                size.add_metric(own, worker.memory.size_bytes)
    yield from (used, size)
