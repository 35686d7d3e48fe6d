"""Worker records: each worker renews its record while it lives."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import accumulate
from typing import Any

from shared.jobs.job import ModelLoad
from shared.jobs.states import State
from shared.jobs.types import Backend, FrozenModel
from shared.models.capabilities import Capabilities
from shared.redis.keys import Keys
from shared.redis.store import Argument, Operation
from shared.workers.devices import DeviceMemory
from shared.workers.models import source_versions

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


class ModelInMemory(FrozenModel):
    """A model that a worker has in memory."""

    name: str
    bytes: int
    shared_bytes: int = 0
    """Of parts that other models in memory have as well: they are there once."""
    on_device: bool
    """False while it waits in main memory."""
    pinned: bool = False
    placement: str | None = None
    """How much of it is on the device: resident, model-offload or group-offload; None if there is no choice."""
    acceleration: str | None = None
    """The level of SD_OPTIMIZE, and what it does for this model; None if there is no choice."""


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
    acceleration: str | None = None
    """The level of SD_OPTIMIZE, and what it does for the model; None if there is no choice."""
    download: Download | None = None
    """Of the model, until it is on this machine."""
    memory: DeviceMemory | None = None
    """At the last heartbeat; None if unknown."""
    models: tuple[ModelInMemory, ...] = ()
    """Models in memory, the most recently used first; none for providers."""
    loading: ModelLoad | None = None
    """The model that is being loaded into memory."""
    current_job: str | None = None
    concurrency: int = 1
    """How many jobs it runs at a time; a batch counts as one."""
    credits: float | None = None
    """Credits left at the provider; None if there is no provider or it does not report them."""
    started_at: datetime

    def holds(self, model: str) -> bool:
        """Whether its jobs can start without loading it."""
        if not self.models:
            return self.state is not WorkerState.LOADING and self.model == model
        return any(held.name == model for held in self.models)


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
    load_ms: dict[Backend, dict[str, int]] = field(default_factory=dict)
    """Recent milliseconds of loading each model."""
    model_sources: dict[Backend, dict[str, int]] = field(default_factory=dict)
    """Versions of what is published about models, by source."""
    pinned_models: dict[Backend, frozenset[str]] = field(default_factory=dict)
    remaining_ms: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """How long the running jobs of each worker still need, by its id."""

    def workers_of(self, backend: Backend) -> tuple[WorkerRecord, ...]:
        return tuple(worker for worker in self.workers if worker.backend is backend)

    def holders_of(self, backend: Backend, model: str) -> tuple[WorkerRecord, ...]:
        """The workers that have a model in memory."""
        return tuple(worker for worker in self.workers_of(backend) if worker.holds(model))

    def load_of(self, backend: Backend, model: str) -> ModelLoad | None:
        """The progress of the worker that is loading a model."""
        loads = (worker.loading for worker in self.workers_of(backend) if worker.loading)
        return next((load for load in loads if load.model == model), None)

    def wait_seconds(self, backend: Backend, work_ms: int, models: Iterable[str] = ()) -> float:
        """Until a job starts that has this work ahead of it, beside what the living workers run now.

        The work contains loading those models that no worker has.
        """
        learned, default = self.load_ms.get(backend, {}), self.capabilities.get(backend)
        names = {model or (default.model if default else "") for model in models}
        load_ms = sum(learned.get(name, 0) for name in names if not self.holders_of(backend, name))
        # The first to be free share the work: as many of them as are done soonest.
        busy_ms = accumulate(self._free_after_ms(backend))
        shared_ms = ((work_ms + load_ms + busy) / count for count, busy in enumerate(busy_ms, 1))
        return round(min(shared_ms, default=work_ms + load_ms) / 1000, 1)

    def _free_after_ms(self, backend: Backend) -> list[int]:
        """When each worker can start another job, the soonest first; several times for one that runs several."""
        times = list[int]()
        for worker in self.workers_of(backend):
            running = self.remaining_ms.get(worker.id, ())
            if worker.concurrency == 1:
                times.append(max(running, default=0))
            else:
                times += [*running, *[0] * (worker.concurrency - len(running))]
        return sorted(times)


class Workers:
    """Operations on worker records."""

    def __init__(self, prefix: str) -> None:
        self._keys = Keys(prefix)

    def heartbeat(self, worker: WorkerRecord) -> Operation[bool]:
        """Renew the record; it expires LIFETIME_MS after the last heartbeat."""
        args: list[Argument] = [worker.id, worker.model_dump_json(), LIFETIME_MS, _residency(worker)]
        return Operation("workers/heartbeat", self._keys_of(worker.id), args, bool)

    def unregister(self, worker_id: str) -> Operation[bool]:
        return Operation("workers/unregister", self._keys_of(worker_id), [worker_id], bool)

    def _keys_of(self, worker_id: str) -> list[str]:
        return [self._keys.worker(worker_id), self._keys.workers, self._keys.residency]

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
            keys.load_stats(""),
            keys.model_sources(""),
            keys.pinned_models(""),
            keys.record(""),
        ]
        return Operation("workers/list", [keys.workers, keys.state(State.RUNNING)], [*prefixes, *Backend], _fleet)


def _fleet(reply: tuple[list[str], list[list[Any]], int, list[Any]]) -> Fleet:
    records, rows, store_ms, running = reply
    known, remaining_ms = dict(zip(Backend, rows, strict=True)), dict[str, list[int]]()
    for worker, milliseconds in zip(running[::2], running[1::2], strict=True):
        remaining_ms.setdefault(worker, []).append(milliseconds)
    return Fleet(
        workers=tuple(WorkerRecord.model_validate_json(record) for record in records),
        capabilities={backend: Capabilities.model_validate_json(row[0]) for backend, row in known.items() if row[0]},
        queued={backend: row[1] for backend, row in known.items()},
        duration_stats={backend: _durations(row[2]) for backend, row in known.items()},
        store_ms=store_ms,
        start_failures={backend: row[3] for backend, row in known.items() if row[3]},
        load_ms={backend: _load_ms(row[4]) for backend, row in known.items()},
        model_sources={backend: source_versions(row[5], store_ms) for backend, row in known.items()},
        pinned_models={backend: frozenset(row[6]) for backend, row in known.items()},
        remaining_ms=remaining_ms,
    )


def _durations(flat: list[str]) -> dict[str, int]:
    return {kind: int(ms) for kind, ms in zip(flat[::2], flat[1::2], strict=True)}


def _load_ms(flat: list[str]) -> dict[str, int]:
    return {name.removeprefix("ms "): ms for name, ms in _durations(flat).items() if name.startswith("ms ")}


def _residency(worker: WorkerRecord) -> str:
    """For lua/queue/affinity.lua."""
    if not worker.models and worker.loading is None:
        return ""
    fields = {
        "backend": worker.backend.value,
        "loaded": [held.name for held in worker.models],
        "loading": worker.loading.model if worker.loading else "",
    }
    return json.dumps(fields)[1:-1]
