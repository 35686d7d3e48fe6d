"""Operations on a Redis server that cannot perform them or has closed a connection."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from shared.errors import ConfigurationError, StoreUnavailable
from shared.jobs.operations import Jobs
from shared.jobs.types import Backend
from shared.redis.keys import Keys
from shared.redis.store import AsyncStore, Store, async_connections, connect, require_redis
from shared.workers.devices import DeviceMemory
from shared.workers.records import WorkerRecord, Workers, WorkerState
from tests.shared.conftest import NOW, ROOM, Records, new_job
from tests.shared.jobs.test_repeated_requests import UNSURE
from tests.stack import valkey_server
from tests.support.redis_double import redis_double
from worker.records.heartbeat import Heartbeat

#: What makes a server refuse to write, and what makes it write again.
FAULTS = {
    "full": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "a replica": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "without enough replicas": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    "denied scripts": ("ACL SETUSER default -@scripting", "ACL SETUSER default +@all"),
    "denied keys": ("ACL SETUSER default resetkeys", "ACL SETUSER default allkeys"),
}
WRITE = Workers("store:").unregister("nobody")


def worker() -> WorkerRecord:
    now = datetime.now(UTC)
    return WorkerRecord(id="w", name="w", backend=Backend.NULL, state=WorkerState.READY, model="null", started_at=now)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey_server(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[redis.Redis]:
    with connect(url) as client:
        yield client


def test_a_full_server_refuses_a_job_although_an_identical_one_was_cancelled(url: str) -> None:
    records = Records(url)
    job = records.accepted()
    records.run(records.jobs.mark_unconfirmed(UNSURE, job.id))
    assert records.run(records.jobs.move(job, job.cancel(NOW)))
    fault, cure = FAULTS["full"]
    records.store.client.execute_command(*fault.split())
    try:
        with pytest.raises(StoreUnavailable):
            records.run(records.jobs.create(new_job(), ROOM, UNSURE))
    finally:
        records.store.client.execute_command(*cure.split())


@pytest.mark.parametrize(("fault", "cure"), FAULTS.values(), ids=FAULTS)
def test_a_server_that_cannot_write_is_unavailable_until_it_can(client: redis.Redis, fault: str, cure: str) -> None:
    store, write = Store(client), Workers("store:").record_start_failure(Backend.NULL, "reason")
    client.execute_command(*fault.split())
    try:
        with pytest.raises(StoreUnavailable):
            store.run(write)
        with pytest.raises(StoreUnavailable):
            store.run_all([write, write])
    finally:
        client.execute_command(*cure.split())

    assert store.run(write)


@pytest.mark.parametrize(("word", "connections"), [("OOM", 1), ("NOREPLICAS", 1), ("MISCONF", 1), ("READONLY", 2)])
def test_errors_of_scripts_before_redis_7_are_understood(word: str, connections: int) -> None:
    """As Redis 6.2 sends them."""
    error = f"ERR Error running script (call to f_61c2): @user_script:192: @user_script: 192: -{word} It cannot write."

    async def write() -> int:
        async with redis_double(lambda *_: f"-{error}\r\n".encode()) as server:
            store = AsyncStore(async_connections(server.url))
            with pytest.raises(StoreUnavailable):
                await store.run(WRITE)
            await store.aclose()
            return server.connections

    assert asyncio.run(write()) == connections


@pytest.mark.parametrize(
    "error",
    [
        "DENIED Redis is running in protected mode",
        "MOVED 3999 127.0.0.1:6381",
        "CROSSSLOT Keys in request don't hash to the same slot",
        "ERR unknown command 'EVALSHA'",
        "ERR upstream connection failed",
    ],
)
def test_a_server_that_refuses_every_script_is_unavailable(error: str, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy whose server is away, or another server behind the same name."""

    async def write() -> None:
        async with redis_double(lambda *_: f"-{error}\r\n".encode()) as server:
            store = AsyncStore(async_connections(server.url))
            with pytest.raises(StoreUnavailable):
                await store.run(WRITE)
            await store.aclose()

    asyncio.run(write())

    assert "Redis refuses what the service needs" in caplog.text


def test_a_cluster_is_refused_at_the_start(tmp_path: Path) -> None:
    with (
        valkey_server(tmp_path, "--cluster-enabled", "yes") as url,
        pytest.raises(ConfigurationError, match="is a Redis Cluster"),
    ):
        require_redis(url)


def test_a_server_that_has_become_a_replica_is_left_for_its_successor(tmp_path: Path) -> None:
    """A failover behind one name: what was connected before goes on to be connected to the old server."""
    name = tmp_path / "redis"
    with valkey_server(tmp_path) as old, valkey_server(tmp_path) as new:
        name.symlink_to(old.removeprefix("unix://"))
        stores = [Store(connect(f"unix://{name}")) for _ in range(2)]
        for store in stores:
            assert store.run(WRITE)

        async def write_before_and_after() -> bool:
            store = AsyncStore(async_connections(f"unix://{name}"))
            try:
                await store.run(WRITE)
                connect(old).execute_command("REPLICAOF", "127.0.0.1", "1")
                name.unlink()
                name.symlink_to(new.removeprefix("unix://"))
                return await store.run(WRITE)
            finally:
                await store.aclose()

        assert asyncio.run(write_before_and_after())
        with pytest.raises(StoreUnavailable):
            stores[0].run(WRITE)
        with pytest.raises(StoreUnavailable):
            stores[1].run_all([WRITE, WRITE])
        assert all(store.run(WRITE) for store in stores)


def test_an_idle_connection_that_the_server_closed_is_reopened(url: str, client: redis.Redis) -> None:
    store = Store(connect(url))
    store.run(WRITE)

    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    assert store.run(WRITE)
    assert store.run_all([WRITE, WRITE]) == [True, True]


def test_the_api_reopens_closed_connections(url: str, client: redis.Redis) -> None:
    async def ask() -> bool:
        store = AsyncStore(async_connections(url))
        await store.run(WRITE)
        client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        try:
            return await store.run(WRITE)
        finally:
            await store.aclose()

    assert asyncio.run(ask())


def test_a_failing_operation_affects_no_other_of_the_same_round_trip(url: str, client: redis.Redis) -> None:
    client.set(Keys("store:").queue(Backend.SD), "no sorted set")

    async def ask() -> list[object]:
        store, jobs = AsyncStore(async_connections(url)), Jobs("store:")
        try:
            replies = (
                store.run(jobs.peek_queue(backend, 1)) for backend in (Backend.NULL, Backend.SD, Backend.FLUX_API)
            )
            return await asyncio.gather(*replies, return_exceptions=True)
        finally:
            await store.aclose()

    good, bad, also_good = asyncio.run(ask())
    assert (good, also_good) == ((), ())
    assert isinstance(bad, redis.ResponseError)


def test_the_heartbeat_continues_after_an_unexpected_error(client: redis.Redis) -> None:
    failures = iter([RuntimeError("nobody foresaw it")])

    def measured() -> DeviceMemory | None:
        if (error := next(failures, None)) is not None:
            raise error
        return None

    heartbeat = Heartbeat(Store(client), Workers("beating:"), worker())
    heartbeat.report_memory(measured)
    heartbeat.start()
    try:
        heartbeat.update(current_job="a job")
        while not any("a job" in record for record in map(str, _records(client))):
            heartbeat.update(current_job="a job")
    finally:
        heartbeat.stop()


def _records(client: redis.Redis) -> list[object]:
    return [client.get(key) for key in client.scan_iter("beating:worker:*")]
