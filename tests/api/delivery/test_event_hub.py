"""One subscription serves all waiting requests of a process."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import redis

from api.delivery import events, feed
from api.delivery.events import BACKLOG, EventHub, Listener
from api.delivery.feed import JobFeed
from api.delivery.live_jobs import LiveJobs
from shared.access.sessions import CallerSessions
from shared.jobs.admission import QueueLimits
from shared.jobs.job import Job, Progress
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobEvent
from shared.jobs.types import Backend
from shared.redis import subscription
from shared.redis.keys import Keys
from shared.redis.store import AsyncStore, async_connections, connect
from tests.stack import free_port, valkey_server

NOW = datetime.now(UTC)


class Scene:
    """A running job, and a hub that receives its events."""

    def __init__(self, store: AsyncStore, jobs: Jobs, hub: EventHub, job: Job) -> None:
        self.store, self.jobs, self.hub, self.job = store, jobs, hub, job

    async def report(self, step: int) -> None:
        progress = Progress(step=step, steps=1000, fraction=step / 1000)
        await self.store.run(self.jobs.report_progress(self.job, progress))

    async def end(self) -> None:
        assert await self.store.run(self.jobs.move(self.job, self.job.cancel(NOW)))


@asynccontextmanager
async def scene(url: str, prefix: str) -> AsyncIterator[Scene]:
    store, jobs = AsyncStore(async_connections(url)), Jobs(prefix)
    queued = Job.new(GenerationRequest(prompt="x"), Backend.NULL, NOW)
    job = queued.start("null", "worker", NOW)
    await store.run(jobs.create(queued, QueueLimits(10, 10)))
    assert await store.run(jobs.move(queued, job))
    hub = EventHub(async_connections(url), store, jobs)
    listening = asyncio.create_task(hub.run())
    with hub.listen(job.id) as listener:
        # The first notification says that the hub has subscribed.
        assert await listener.next_event() is None
    try:
        yield Scene(store, jobs, hub, job)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await store.aclose()


def on_event_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await test(**fixtures)

        asyncio.run(limited())

    return run


@on_event_loop
async def test_waiting_returns_the_finished_job(redis_url: str) -> None:
    async with scene(redis_url, "hub-waits:") as at:
        with at.hub.listen(at.job.id) as listener:
            waiting = asyncio.create_task(listener.finished_job())

            await at.end()

            assert (await waiting).job == at.job.cancel(NOW)


@on_event_loop
async def test_a_cancelled_wait_leaves_no_listener(redis_url: str) -> None:
    async with scene(redis_url, "hub-leaves:") as at:

        async def wait() -> None:
            with at.hub.listen(at.job.id) as listener:
                await listener.finished_job()

        waiting = [asyncio.create_task(wait()) for _ in range(10)]
        await asyncio.sleep(0)
        assert at.hub.listener_count == 10

        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        assert at.hub.listener_count == 0


@on_event_loop
async def test_a_slow_listener_catches_up_without_loss(redis_url: str) -> None:
    async with scene(redis_url, "hub-behind:") as at:
        with at.hub.listen(at.job.id) as listener:
            stream = listener.events()
            first = await anext(stream)
            with at.hub.listen(at.job.id) as prompt:
                for step in range(1, BACKLOG + 50):
                    await at.report(step)
                    await prompt.next_event()

            await at.end()
            rest = [event async for event in stream if event is not None]

    steps = [Progress.model_validate_json(event.data).step for event in rest if event.type == "progress"]
    assert first is not None
    assert steps == list(range(1, BACKLOG + 50))
    assert rest[-1].type == "done"


@on_event_loop
async def test_a_lost_subscription_is_restored_without_loss(redis_url: str) -> None:
    async with scene(redis_url, "hub-lost:") as at:
        with at.hub.listen(at.job.id) as listener:
            stream = listener.events()
            seen = [await anext(stream) for _ in range(2)]
            with redis.Redis.from_url(redis_url) as server:
                server.client_kill_filter(_type="pubsub")

            for step in range(1, 30):
                await at.report(step)
            await at.end()
            rest = [event async for event in stream if event is not None]

    assert [event.type for event in seen if event] == ["state", "state"]
    steps = [Progress.model_validate_json(event.data).step for event in rest if event.type == "progress"]
    assert steps == list(range(1, 30))


@asynccontextmanager
async def replaced_server(folder: Path, prefix: str) -> AsyncIterator[tuple[Scene, Listener]]:
    """After a failover behind one name: the former primary answers, but does not reach its successor."""
    name = folder / "redis"
    with valkey_server(folder) as old, valkey_server(folder) as new:
        name.symlink_to(old.removeprefix("unix://"))
        async with scene(f"unix://{name}", prefix) as at:
            connect(old).execute_command("REPLICAOF", "127.0.0.1", "1")
            name.unlink()
            name.symlink_to(new.removeprefix("unix://"))
            with at.hub.listen("a job") as listener:
                yield at, listener


@on_event_loop
async def test_an_outage_of_the_store_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two lines a second would push everything else out of a log of limited size."""
    monkeypatch.setattr(events, "RECONNECT_SECONDS", 0)
    nowhere = async_connections(f"redis://127.0.0.1:{free_port()}")
    attempts = asyncio.Semaphore(0)

    def connect() -> Any:
        attempts.release()
        return nowhere()

    store = AsyncStore(nowhere)
    listening = asyncio.create_task(EventHub(connect, store, Jobs("hub-away:")).run())
    for _ in range(4):
        await attempts.acquire()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)

    assert caplog.messages == ["lost the event subscription (ConnectionError); subscribing again"]


@on_event_loop
async def test_a_subscription_to_a_server_that_was_replaced_is_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "SILENCE_SECONDS", 0.3)
    async with replaced_server(tmp_path, "hub-replaced:") as (_, listener):
        assert await listener.next_event() is None, "may have missed events"


@on_event_loop
async def test_a_subscription_follows_the_store_to_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "SILENCE_SECONDS", 60)
    async with replaced_server(tmp_path, "hub-follows:") as (at, listener):
        await at.store.run(at.jobs.ping_listeners())

        assert await listener.next_event() is None, "may have missed events"


@on_event_loop
async def test_events_of_others_do_not_keep_a_stream_from_being_pinged(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PING_SECONDS", 0.05)
    async with scene(redis_url, "hub-others:") as at:
        stream = JobFeed(at.hub).follow("somebody else", "")
        first = await anext(stream)
        second = asyncio.ensure_future(anext(stream))

        for step in itertools.count(1):
            await at.report(step)
            if second.done():
                break

    assert first is not None
    assert first[0].type == "sync"
    assert second.result() is None


@on_event_loop
async def test_all_listeners_get_events_in_order(redis_url: str) -> None:
    async with scene(redis_url, "hub-many:") as at:

        async def event_ids() -> list[str]:
            with at.hub.listen(at.job.id) as listener:
                stream = listener.events()
                return [event.id async for event in stream if event is not None]

        listeners = [asyncio.create_task(event_ids()) for _ in range(20)]
        for step in range(1, 40):
            await at.report(step)
        await at.end()

        received = await asyncio.gather(*listeners)

    known = sorted(received[0], key=events.stream_position)
    assert len(known) == 2 + 39 + 1
    assert all(ids == known for ids in received)


@on_event_loop
async def test_pings_fill_silence(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING_SECONDS", 0.05)
    async with scene(redis_url, "hub-silent:") as at:
        with at.hub.listen(at.job.id) as listener:
            stream = listener.events()

            received = [await anext(stream) for _ in range(4)]

    assert [event is None for event in received] == [False, False, True, True]
    assert events.format_event(None) == b": ping\n\n"


@on_event_loop
async def test_a_listener_buffers_no_more_than_its_backlog() -> None:
    nowhere = async_connections("redis://127.0.0.1")
    listener = Listener(EventHub(nowhere, AsyncStore(nowhere), Jobs("hub-backlog:")), "job")

    for number in range(10 * BACKLOG):
        listener.notify(JobEvent("job", f"1-{number}", "progress", "{}"))

    assert await listener.next_event() is None
    assert listener._events.qsize() < BACKLOG


@on_event_loop
async def test_a_message_that_is_no_event_ends_no_subscription(redis_url: str) -> None:
    async with scene(redis_url, "hub-garbage:") as at:
        with at.hub.listen(at.job.id) as listener:
            waiting = asyncio.create_task(listener.finished_job())
            with redis.Redis.from_url(redis_url) as server:
                server.publish(at.jobs.channel, "garbage")

            await at.end()

            assert (await waiting).job == at.job.cancel(NOW)


@on_event_loop
async def test_a_record_that_cannot_be_read_keeps_nobody_waiting(redis_url: str) -> None:
    async with scene(redis_url, "hub-unreadable:") as at:
        live_jobs = LiveJobs(at.hub, CallerSessions("hub-unreadable:"))
        await live_jobs.started("caller", at.job.id)
        with redis.Redis.from_url(redis_url) as server:
            server.hset(Keys("hub-unreadable:").record(at.job.id), "doc", "{}")

        with pytest.raises(ValueError, match="validation errors"):
            await live_jobs.unfinished("caller")
