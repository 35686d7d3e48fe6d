"""What workers tell of themselves: one record each, which dies with its worker."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shared.jobs.types import Backend, FrozenModel
from shared.models.capabilities import Capabilities
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation
from shared.workers.devices import DeviceMemory

HEARTBEAT_SECONDS = 4.0
#: A record lives through two missed beats.
LIFETIME_MS = 12_000
#: Failed starts count as a row, and the reason is told, for so long after the last one.
FAILURE_LIFETIME_MS = 3_600_000


class WorkerState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"


class Download(FrozenModel):
    """How far the download of a model is."""

    model: str
    bytes_done: int
    bytes_total: int


class WorkerRecord(FrozenModel):
    id: str
    """Another one at each start: two workers may have the same name."""
    name: str
    """That of its Celery node."""
    backend: Backend
    state: WorkerState
    model: str
    device: str | None = None
    """None until the model is loaded."""
    dtype: str | None = None
    placement: str | None = None
    """How much of the model is on the device: resident, model-offload, group-offload. None where that is no choice."""
    download: Download | None = None
    """Of the model, while that is not on this machine yet."""
    memory: DeviceMemory | None = None
    """As of the last beat; None where it cannot be told."""
    current_job: str | None = None
    credits: float | None = None
    """What the account with the provider still has; None where there is no provider, or it does not tell."""
    started_at: datetime


@dataclass(frozen=True)
class Fleet:
    """Every living worker and, per backend, what it was last known to do, how fast, and how many jobs wait for it."""

    workers: tuple[WorkerRecord, ...]
    capabilities: dict[Backend, Capabilities]
    queued: dict[Backend, int]
    duration_stats: dict[Backend, dict[str, int]]
    """Milliseconds that kinds of work have taken lately (see workload_key); `*` is the mean of all."""
    store_ms: int
    """When this was so, by the store's clock: milliseconds since 1970."""
    start_failures: dict[Backend, str] = field(default_factory=dict)
    """Why the last worker of a backend could not start, until one is ready."""

    def workers_of(self, backend: Backend) -> tuple[WorkerRecord, ...]:
        return tuple(worker for worker in self.workers if worker.backend is backend)

    def wait_seconds(self, backend: Backend, work_ms: int) -> float:
        """How long until so much work is done, shared by the workers that are there."""
        return round(work_ms / 1000 / max(1, len(self.workers_of(backend))), 1)


class Workers:
    """Operations on worker records."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def heartbeat(self, worker: WorkerRecord) -> Operation[bool]:
        """Renew the record; it lapses LIFETIME_MS after the last beat."""
        args: list[Argument] = [worker.id, worker.model_dump_json(), LIFETIME_MS]
        return Operation("workers/heartbeat", [self._keys.worker(worker.id), self._keys.workers], args, bool)

    def unregister(self, worker_id: str) -> Operation[bool]:
        return Operation("workers/unregister", [self._keys.worker(worker_id), self._keys.workers], [worker_id], bool)

    def set_capabilities(self, backend: Backend, capabilities: Capabilities) -> Operation[bool]:
        """A worker is ready: remember what the backend can do, also while no worker is there."""
        keys = [self._keys.capabilities(backend), self._keys.start_failures(backend)]
        return Operation("workers/set_capabilities", keys, [capabilities.model_dump_json()], bool)

    def record_start_failure(self, backend: Backend, reason: str) -> Operation[int]:
        """Remember why a worker cannot start. Returns how many of the backend have failed in a row."""
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
    told = zip(Backend, models, strict=True)
    return Fleet(
        workers=tuple(WorkerRecord.model_validate_json(record) for record in records),
        capabilities={backend: Capabilities.model_validate_json(model) for backend, model in told if model},
        queued=dict(zip(Backend, queued, strict=True)),
        duration_stats={backend: _duration_stats(flat) for backend, flat in zip(Backend, durations, strict=True)},
        store_ms=store_ms,
        start_failures={backend: reason for backend, reason in zip(Backend, failures, strict=True) if reason},
    )


def _duration_stats(flat: list[str]) -> dict[str, int]:
    return {kind: int(ms) for kind, ms in zip(flat[::2], flat[1::2], strict=True)}
