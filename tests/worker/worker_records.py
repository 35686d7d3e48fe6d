"""The records of the workers of a stack."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.redis.store import Store, connect
from shared.workers.records import WorkerRecord, Workers
from tests.stack import Stack
from tests.support.polling import wait_until

#: For dozens of jobs and loads on a busy machine.
MOST_SECONDS = 400.0


def worker_records(stack: Stack) -> tuple[WorkerRecord, ...]:
    store = Store(connect(stack.settings["SD_REDIS_URL"]))
    return store.run(Workers(stack.prefix).read_fleet()).workers


def only_worker(stack: Stack) -> WorkerRecord | None:
    records = worker_records(stack)
    assert len(records) <= 1
    return records[0] if records else None


def most_model_bytes(stack: Stack, jobs: Sequence[Mapping[str, Any]]) -> int:
    """The most memory that the models of all workers took together until these jobs had ended."""
    most = 0

    def have_ended() -> bool:
        nonlocal most
        held = [model for worker in worker_records(stack) for model in worker.models]
        # Parts that two of them have in common are there once.
        most = max(most, sum(model.bytes - model.shared_bytes // 2 for model in held))
        states = (stack.api.get(f"/api/jobs/{job['id']}").json()["state"] for job in jobs)
        return not any(state in ("queued", "running") for state in states)

    wait_until(have_ended, seconds=MOST_SECONDS)
    return most
