"""A model whose loads end their process."""

from datetime import UTC, datetime

import pytest

from shared.errors import ModelUnavailable
from shared.jobs.types import Backend
from shared.redis.store import Store, connect
from shared.workers.models import ModelRecords
from shared.workers.records import WorkerRecord, Workers, WorkerState
from worker.records.model_reports import LoadGuard


def load_guard(redis_url: str, prefix: str, worker: str) -> LoadGuard:
    return LoadGuard(Store(connect(redis_url)), ModelRecords(prefix), Backend.NULL, worker)


def test_a_model_whose_loads_end_the_process_is_not_loaded_for_ever(redis_url: str) -> None:
    """Loads that never ended are those of processes that are gone."""
    guard, other = load_guard(redis_url, "guard:", "same"), load_guard(redis_url, "guard:", "lost")
    guard.begin("huge", "1")
    other.begin("huge", "1")

    with pytest.raises(ModelUnavailable, match="process ended 2 times"):
        guard.begin("huge", "1")

    # Other files, and a load that ended well.
    guard.begin("huge", "2")
    guard.end("huge", "1")
    guard.begin("huge", "1")


def test_any_number_of_workers_may_load_a_model_at_the_same_time(redis_url: str) -> None:
    """As after a command to load it, which goes to all of them."""
    for name in ("one", "two", "three", "four"):
        record = WorkerRecord(
            id=name, name=name, backend=Backend.NULL, state=WorkerState.READY, model="x", started_at=datetime.now(UTC)
        )
        Store(connect(redis_url)).run(Workers("crowd:").heartbeat(record))
        load_guard(redis_url, "crowd:", name).begin("large", "1")

    # The first one was lost meanwhile, and begins again.
    load_guard(redis_url, "crowd:", "one").begin("large", "1")


def test_requests_for_a_model_that_is_not_loaded_do_not_prolong_that(redis_url: str) -> None:
    guard, client = load_guard(redis_url, "late:", "w"), connect(redis_url)
    for _ in range(2):
        guard.begin("huge", "1")
    (key,) = client.scan_iter("late:unfinished-loads:*")
    client.pexpire(key, 1000)
    with pytest.raises(ModelUnavailable):
        guard.begin("huge", "1")

    assert client.pttl(key) <= 1000
