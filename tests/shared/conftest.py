"""Job records in a real Valkey, without processes around them."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from shared.jobs.admission import AdmissionOutcome, QueueLimits
from shared.jobs.job import Job
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobSnapshot
from shared.jobs.types import Backend
from shared.redis.store import Operation, Store, connect

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
_prefixes = itertools.count()
T = TypeVar("T")


ROOM = QueueLimits(queued=1000, queued_per_backend=1000)


def new_job(owner: str = "", **fields: Any) -> Job:
    """Created at NOW, with an id by the real clock: ids of a fixed moment jump back every ten seconds."""
    job = Job.new(GenerationRequest(prompt="x", **fields), Backend.NULL, datetime.now(UTC), owner)
    return job.model_copy(update={"created_at": NOW})


class Records:
    """Job records under a unique prefix."""

    def __init__(self, url: str) -> None:
        self.prefix = f"records{next(_prefixes)}:"
        self.jobs = Jobs(self.prefix)
        self.store = Store(connect(url))

    def run(self, operation: Operation[T]) -> T:
        return self.store.run(operation)

    def accepted(self, owner: str = "", **fields: Any) -> Job:
        return self.accepted_many(1, owner, **fields)[0]

    def accepted_many(self, count: int, owner: str = "", **fields: Any) -> list[Job]:
        jobs = [new_job(owner, **fields) for _ in range(count)]
        admissions = self.store.run_all([self.jobs.create(job, ROOM) for job in jobs])
        assert [(one.outcome, one.job_id) for one in admissions] == [(AdmissionOutcome.CREATED, job.id) for job in jobs]
        return jobs

    def started(self, owner: str = "", **fields: Any) -> Job:
        return self.started_many(1, owner, **fields)[0]

    def started_many(self, count: int, owner: str = "", **fields: Any) -> list[Job]:
        queued = self.accepted_many(count, owner, **fields)
        jobs = [job.start("null", "worker", NOW) for job in queued]
        assert all(self.store.run_all([self.jobs.move(*pair) for pair in zip(queued, jobs, strict=True)]))
        return jobs

    def snapshot(self, job: Job) -> JobSnapshot:
        snapshot = self.run(self.jobs.read(job.id))
        assert snapshot is not None
        return snapshot

    def read(self, job: Job) -> Job:
        return self.snapshot(job).job

    def wake_ups(self) -> int:
        """Number of wake-ups for workers."""
        length: Any = self.store.client.llen(f"{self.prefix}generate.null")
        return int(length)

    def order(self) -> list[str]:
        """Ids of queued jobs, in the order in which they will start."""
        return [queued.job.id for queued in self.run(self.jobs.peek_queue(Backend.NULL, 1000))]


@pytest.fixture
def records(redis_url: str) -> Iterator[Records]:
    records = Records(redis_url)
    yield records
    records.store.client.close()
