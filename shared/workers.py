"""What workers tell of themselves: one record each, which dies with its worker."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shared.capabilities import Capabilities
from shared.schemas import Backend, Frozen
from shared.store import Argument, Operation

BEAT_SECONDS = 4.0
#: A record lives through two missed beats.
LIFETIME_MS = 12_000


class WorkerState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"


class WorkerRecord(Frozen):
    name: str
    backend: Backend
    state: WorkerState
    model: str
    device: str | None = None
    """None until the model is loaded."""
    dtype: str | None = None
    current_job: str | None = None
    started_at: datetime


@dataclass(frozen=True)
class Fleet:
    """Every living worker and, per backend, what it was last known to do and how many jobs wait for it."""

    workers: tuple[WorkerRecord, ...]
    capabilities: dict[Backend, Capabilities]
    queued: dict[Backend, int]

    def of(self, backend: Backend) -> tuple[WorkerRecord, ...]:
        return tuple(worker for worker in self.workers if worker.backend is backend)


class Workers:
    """Operations on worker records. `prefix` begins every key."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def beat(self, worker: WorkerRecord) -> Operation[bool]:
        """Renew the record; it lapses LIFETIME_MS after the last beat."""
        args: list[Argument] = [worker.name, worker.model_dump_json(), LIFETIME_MS]
        return Operation("beat", [f"{self._prefix}worker:{worker.name}", self._index], args, bool)

    def leave(self, name: str) -> Operation[bool]:
        return Operation("leave", [f"{self._prefix}worker:{name}", self._index], [name], bool)

    def tell(self, backend: Backend, capabilities: Capabilities) -> Operation[bool]:
        """Remember what the backend can do, also while no worker is there."""
        key = f"{self._prefix}capabilities:{backend}"
        return Operation("tell", [key], [capabilities.model_dump_json()], bool)

    def fleet(self) -> Operation[Fleet]:
        prefixes = [f"{self._prefix}worker:", f"{self._prefix}capabilities:", f"{self._prefix}line:"]
        return Operation("workers", [self._index], [*prefixes, *Backend], _fleet)

    @property
    def _index(self) -> str:
        return f"{self._prefix}workers"


def _fleet(reply: tuple[list[str], list[str], list[int]]) -> Fleet:
    records, models, queued = reply
    told = zip(Backend, models, strict=True)
    return Fleet(
        workers=tuple(WorkerRecord.model_validate_json(record) for record in records),
        capabilities={backend: Capabilities.model_validate_json(model) for backend, model in told if model},
        queued=dict(zip(Backend, queued, strict=True)),
    )
