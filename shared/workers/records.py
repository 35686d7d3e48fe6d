"""Worker records: each worker renews its record while it lives."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shared.jobs.types import Backend, FrozenModel
from shared.models.capabilities import Capabilities
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation
from shared.workers.devices import DeviceMemory

HEARTBEAT_SECONDS = 4.0
#: A record survives two missed heartbeats.
LIFETIME_MS = 12_000
#: How long the number of failed starts and the last reason are kept after the last failure.
FAILURE_LIFETIME_MS = 3_600_000


class WorkerState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"


class Download(FrozenModel):
    """Progress of a model download."""

    model: str
    bytes_done: int
    bytes_total: int


class WorkerRecord(FrozenModel):
    id: str
    """Unique for each start: two workers may have the same name."""
    name: str
    """Name of its Celery node."""
    backend: Backend
    state: WorkerState
    model: str
    device: str | None = None
    """None until the model is loaded."""
    dtype: str | None = None
    placement: str | None = None
    """How much of the model is on the device: resident, model-offload or group-offload; None if there is no choice."""
    download: Download | None = None
    """Of the model, until it is on this machine."""
    memory: DeviceMemory | None = None
    """At the last heartbeat; None if unknown."""
    current_job: str | None = None
    credits: float | None = None
    """Credits left at the provider; None if there is no provider or it does not report them."""
    started_at: datetime


@dataclass(frozen=True)
class Fleet:
    """Every living worker and, per backend, its last known capabilities, duration stats and number of queued jobs."""

    workers: tuple[WorkerRecord, ...]
    capabilities: dict[Backend, Capabilities]
    queued: dict[Backend, int]
    duration_stats: dict[Backend, dict[str, int]]
    """Recent milliseconds by workload (see workload_key); `*` is the mean of all."""
    store_ms: int
    """Time of the reading by the store's clock, in milliseconds since 1970."""
    start_failures: dict[Backend, str] = field(default_factory=dict)
    """Why the last worker of a backend failed to start, until one is ready."""

    def workers_of(self, backend: Backend) -> tuple[WorkerRecord, ...]:
        return tuple(worker for worker in self.workers if worker.backend is backend)

    def wait_seconds(self, backend: Backend, work_ms: int) -> float:
        """How long the living workers together need for this work."""
        return round(work_ms / 1000 / max(1, len(self.workers_of(backend))), 1)


class Workers:
    """Operations on worker records."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def heartbeat(self, worker: WorkerRecord) -> Operation[bool]:
        """Renew the record; it expires LIFETIME_MS after the last heartbeat."""
        args: list[Argument] = [worker.id, worker.model_dump_json(), LIFETIME_MS]
        return Operation("workers/heartbeat", [self._keys.worker(worker.id), self._keys.workers], args, bool)

    def unregister(self, worker_id: str) -> Operation[bool]:
        return Operation("workers/unregister", [self._keys.worker(worker_id), self._keys.workers], [worker_id], bool)

    def set_capabilities(self, backend: Backend, capabilities: Capabilities) -> Operation[bool]:
        """Store the capabilities of a ready worker; they outlive it."""
        keys = [self._keys.capabilities(backend), self._keys.start_failures(backend)]
        return Operation("workers/set_capabilities", keys, [capabilities.model_dump_json()], bool)

    def record_start_failure(self, backend: Backend, reason: str) -> Operation[int]:
        """Record why a worker failed to start. Returns how many of the backend have failed in a row."""
        return Operation(
            "workers/record_start_failure", [self._keys.start_failures(backend)], [reason, FAILURE_LIFETIME_MS], int
        )

    def read_fleet(self) -> Operation[Fleet]:
        keys = self._keys
        prefixes = [
            keys.worker(""),
            keys.capabilities(""),
            keys.queue(""),
            keys.duration_stats(""),
            keys.start_failures(""),
        ]
        return Operation("workers/list", [keys.workers], [*prefixes, *Backend], _fleet)


def _fleet(reply: tuple[list[str], list[str], list[int], list[list[str]], list[str], int]) -> Fleet:
    records, models, queued, durations, failures, store_ms = reply
    known = zip(Backend, models, strict=True)
    return Fleet(
        workers=tuple(WorkerRecord.model_validate_json(record) for record in records),
        capabilities={backend: Capabilities.model_validate_json(model) for backend, model in known if model},
        queued=dict(zip(Backend, queued, strict=True)),
        duration_stats={backend: _duration_stats(flat) for backend, flat in zip(Backend, durations, strict=True)},
        store_ms=store_ms,
        start_failures={backend: reason for backend, reason in zip(Backend, failures, strict=True) if reason},
    )


def _duration_stats(flat: list[str]) -> dict[str, int]:
    return {kind: int(ms) for kind, ms in zip(flat[::2], flat[1::2], strict=True)}
