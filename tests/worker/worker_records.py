"""The records of the workers of a stack."""

from shared.redis.store import Store, connect
from shared.workers.records import WorkerRecord, Workers
from tests.stack import Stack


def worker_records(stack: Stack) -> tuple[WorkerRecord, ...]:
    store = Store(connect(stack.settings["SD_REDIS_URL"]))
    return store.run(Workers(stack.prefix).read_fleet()).workers


def only_worker(stack: Stack) -> WorkerRecord | None:
    records = worker_records(stack)
    assert len(records) <= 1
    return records[0] if records else None
