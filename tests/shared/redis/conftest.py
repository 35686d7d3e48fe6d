"""The queue of one backend, as workers see it: in a real Valkey."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.jobs.admission import QueueLimits
from shared.jobs.job import Job, ModelLoad, QueueHead
from shared.jobs.operations import ModelAffinity
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.workers.models import ModelRecords
from shared.workers.records import ModelInMemory, WorkerRecord, Workers, WorkerState
from tests.shared.conftest import NOW, Records

BOUND_MS = 20_000


class Queue:
    def __init__(self, records: Records) -> None:
        self.records = records
        self.client = records.store.client
        self.passed = f"{records.prefix}queue:null:passed"

    def submit(self, *models: str, expected_ms: int = 1000, owner: str = "", **fields: Any) -> list[Job]:
        jobs = []
        for model in models:
            request = GenerationRequest(prompt="x", model=model or None, **fields)
            job = Job.new(request, Backend.NULL, datetime.now(UTC), owner)
            self.records.run(self.records.jobs.create(job, QueueLimits(1000, 1000), expected_ms=expected_ms))
            jobs.append(job)
        return jobs

    def head(
        self, *loaded: str, worker: str = "w", bound_ms: int = BOUND_MS, limit: int = 16, tried: Collection[str] = ()
    ) -> QueueHead:
        affinity = ModelAffinity(worker, loaded, "default", bound_ms)
        head: QueueHead = self.records.run(self.records.jobs.next_in_queue(Backend.NULL, limit, affinity, tried))
        return head

    def next(self, *loaded: str, **options: Any) -> str | None:
        """The id of the job that a worker starts next."""
        head = self.head(*loaded, **options)
        return head.jobs[0].job.id if head.jobs else None

    def age(self) -> None:
        """As if the jobs that were passed over had waited for longer than any bound since."""
        passed: Any = self.client.zrange(self.passed, 0, -1)
        self.client.zadd(self.passed, dict.fromkeys(passed, 1))

    def start(self, job: Job) -> None:
        assert self.records.run(self.records.jobs.move(job, job.start("x", "w", NOW)))

    def heartbeat(self, worker: str, *loaded: str, loading: str = "", backend: Backend = Backend.NULL) -> None:
        record = WorkerRecord(
            id=worker,
            name=worker,
            backend=backend,
            state=WorkerState.READY,
            model="default",
            started_at=NOW,
            models=tuple(ModelInMemory(name=name, bytes=1, on_device=True) for name in loaded),
            loading=ModelLoad(model=loading, bytes_done=0, bytes_total=1) if loading else None,
        )
        self.records.run(Workers(self.records.prefix).heartbeat(record))

    def loading_takes(self, model: str, milliseconds: int) -> None:
        self.records.run(ModelRecords(self.records.prefix).record_load(Backend.NULL, model, milliseconds, 1))


@pytest.fixture
def queue(records: Records) -> Queue:
    return Queue(records)
