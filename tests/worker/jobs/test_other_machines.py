"""Jobs of models that only another machine has."""

import time
from collections.abc import Set
from dataclasses import dataclass

import pytest

from shared.jobs.operations import ModelAffinity
from shared.jobs.types import Backend
from shared.models.catalogue import ModelEntry
from shared.redis.keys import Keys
from shared.redis.store import Operation
from shared.workers.models import ModelRecords
from tests.worker.bench import Bench
from tests.worker.jobs.batches import states
from worker.engines.base import Engine, SingleEngine
from worker.engines.null import NullEngine
from worker.images.inputs import InputReader
from worker.jobs.claims import JobClaimer
from worker.records.redis_job_store import RedisJobStore


@dataclass(frozen=True)
class OneModel(SingleEngine):
    engine: Engine
    loaded: Set[str] = frozenset({"null"})  # type: ignore[assignment] # there may be other models


def test_a_long_queue_for_another_machine_is_left_to_it_at_once(bench: Bench) -> None:
    records, asked = ModelRecords(bench.prefix), list[str]()
    bench.store.run(
        records.publish(Backend.NULL, "there", [ModelEntry(name="theirs", backend=Backend.NULL)], is_complete=True)
    )

    def is_elsewhere(model: str) -> Operation[bool]:
        asked.append(model)
        return records.is_elsewhere(Backend.NULL, "here", model)

    affinity = ModelAffinity("bench", (), "null", 20_000)
    job_store = RedisJobStore(bench.store, bench.jobs, Backend.NULL, affinity=affinity, is_elsewhere=is_elsewhere)
    claimer = JobClaimer(OneModel(NullEngine()), job_store, InputReader(bench.inputs, 10**9), "bench")
    theirs = [bench.submit(model="theirs") for _ in range(30)]

    with claimer.claim() as claim:
        assert claim is None

    assert states(bench, theirs) == ["queued"] * 30
    assert asked == ["theirs"]


@pytest.mark.parametrize(("minutes", "is_awaited"), [(30, True), (90, False)])
def test_a_job_waits_for_the_machine_that_has_its_model_while_that_may_start_again(
    bench: Bench, minutes: int, *, is_awaited: bool
) -> None:
    records, sources = ModelRecords(bench.prefix), Keys(bench.prefix).model_sources(Backend.SD)
    entry = ModelEntry(name="theirs", backend=Backend.SD)
    bench.store.run(records.publish(Backend.SD, "there", [entry], is_complete=True))
    published_ms = (time.time() - 60 * minutes) * 1000
    bench.store.client.hset(sources, "there", f"1 {published_ms:.0f}")

    assert bench.store.run(records.is_elsewhere(Backend.SD, "here", "theirs")) == is_awaited
