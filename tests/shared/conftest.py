"""Job records in a real Valkey, without processes around them."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from shared.jobs.admission import AdmissionOutcome, QueueLimits
from shared.jobs.job import Job
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import Backend
from shared.redis.store import Operation, Store, connect

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
_prefixes = itertools.count()


ROOM = QueueLimits(queued=1000, queued_per_backend=1000)


class Records:
    """Job records under a prefix of their own."""

    def __init__(self, url: str) -> None:
        self.prefix = f"records{next(_prefixes)}:"
        self.jobs = Jobs(self.prefix)
        self.store = Store(connect(url))

    def run(self, operation: Operation[Any]) -> Any:
        return self.store.run(operation)

    def accepted(self, owner: str = "", **fields: Any) -> Job:
        job = Job.new(GenerationRequest(prompt="x", **fields), Backend.NULL, NOW, owner)
        admission = self.run(self.jobs.create(job, ROOM))
        assert (admission.outcome, admission.job_id) == (AdmissionOutcome.CREATED, job.id)
        return job

    def started(self, owner: str = "", **fields: Any) -> Job:
        queued = self.accepted(owner, **fields)
        job = queued.start("null", "worker", NOW)
        assert self.run(self.jobs.move(queued, job))
        return job

    def held(self, job: Job) -> Job:
        held: Job = self.run(self.jobs.read(job.id)).job
        return held

    def wake_ups(self) -> int:
        """How many there are for workers."""
        held: Any = self.store.client.llen(f"{self.prefix}generate.null")
        return int(held)

    def order(self) -> list[str]:
        """Ids of queued jobs, in the order in which they will start."""
        return [queued.job.id for queued in self.run(self.jobs.peek_queue(Backend.NULL, 1000))]


@pytest.fixture
def records(redis_url: str) -> Iterator[Records]:
    records = Records(redis_url)
    yield records
    records.store.client.close()
