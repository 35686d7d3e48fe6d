"""What the store knows of workers, and for how long."""

from shared.jobs.types import Backend
from shared.workers.records import FAILURE_LIFETIME_MS, LIFETIME_MS, WorkerRecord, Workers, WorkerState
from tests.shared.conftest import NOW, Records
from tests.shared.redis.conftest import Queue
from tests.support.failing_store import FailingStore
from tests.support.polling import wait_until
from worker.engines.null import NullEngine
from worker.records.heartbeat import Heartbeat


def test_a_worker_is_forgotten_when_its_heartbeats_end(queue: Queue) -> None:
    client, prefix = queue.client, queue.records.prefix
    client.zadd(f"{prefix}workers", {"lost": 1})

    queue.heartbeat("w")

    assert client.zrange(f"{prefix}workers", 0, -1) == ["w"]
    assert LIFETIME_MS - 5000 < client.pttl(f"{prefix}worker:w") <= LIFETIME_MS


def test_a_worker_that_has_ended_has_no_model_in_memory(queue: Queue) -> None:
    queue.loading_takes("a", 30_000)
    queue.heartbeat("other", loading="a")
    queue.records.run(Workers(queue.records.prefix).unregister("other"))
    (job,) = queue.submit("a")

    assert queue.next() == job.id
    assert queue.records.run(Workers(queue.records.prefix).read_fleet()).workers == ()


def test_failed_starts_count_until_one_succeeds_or_for_a_time(queue: Queue) -> None:
    workers, run = Workers(queue.records.prefix), queue.records.run
    assert [run(workers.record_start_failure(Backend.NULL, "broken")) for _ in range(2)] == [1, 2]
    lifetime = queue.client.pttl(f"{queue.records.prefix}failures:null")
    assert FAILURE_LIFETIME_MS - 5000 < lifetime <= FAILURE_LIFETIME_MS

    run(workers.set_capabilities(Backend.NULL, NullEngine.capabilities))

    assert run(workers.read_fleet()).start_failures == {}


def test_heartbeats_go_on_whatever_goes_wrong_once(redis_url: str, records: Records) -> None:
    workers = Workers(records.prefix)
    store = FailingStore(redis_url, {"workers/heartbeat": ValueError("an answer that nobody expects")})
    record = WorkerRecord(id="w", name="w", backend=Backend.NULL, state=WorkerState.READY, model="a", started_at=NOW)
    heartbeat = Heartbeat(store, workers, record)

    def fail() -> None:
        raise RuntimeError("the device does not answer")

    heartbeat.report_memory(fail)
    heartbeat.start()
    wait_until(lambda: not store.errors)
    heartbeat.update(state=WorkerState.BUSY)
    try:
        wait_until(lambda: records.run(workers.read_fleet()).workers, seconds=10)
    finally:
        heartbeat.stop()

    assert records.run(workers.read_fleet()).workers == ()
