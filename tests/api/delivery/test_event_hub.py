"""How one subscription serves everybody who waits in a process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import pytest

from api.delivery import events
from api.delivery.events import BACKLOG, EventHub, Listener, job_events, wait_until_done
from shared.jobs.admission import QueueLimits
from shared.jobs.job import Job, Progress
from shared.jobs.operations import Jobs
from shared.jobs.requests import GenerationRequest
from shared.jobs.snapshots import JobEvent
from shared.jobs.types import Backend
from shared.redis.store import AsyncStore, connect_async

NOW = datetime.now(UTC)


class Scene:
    """A running job, and a hub that hears of it."""

    def __init__(self, store: AsyncStore, jobs: Jobs, hub: EventHub, job: Job) -> None:
        self.store, self.jobs, self.hub, self.job = store, jobs, hub, job

    async def report(self, step: int) -> None:
        progress = Progress(step=step, steps=1000, fraction=step / 1000)
        await self.store.run(self.jobs.report_progress(self.job, progress))

    async def end(self) -> None:
        assert await self.store.run(self.jobs.move(self.job, self.job.cancel(NOW)))


@asynccontextmanager
async def scene(url: str, prefix: str) -> AsyncIterator[Scene]:
    store, jobs = AsyncStore(connect_async(url)), Jobs(prefix)
    queued = Job.new(GenerationRequest(prompt="x"), Backend.NULL, NOW)
    job = queued.start("null", "worker", NOW)
    await store.run(jobs.create(queued, QueueLimits(10, 10)))
    assert await store.run(jobs.move(queued, job))
    hub = EventHub(connect_async(url, connections=2), jobs.channel)
    listening = asyncio.create_task(hub.run())
    with hub.listen(job.id) as listener:
        # The first news is that the hub has its subscription.
        assert await listener.next_event() is None
    try:
        yield Scene(store, jobs, hub, job)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await store.client.aclose(close_connection_pool=True)


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**fixtures: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(20):
                await test(**fixtures)

        asyncio.run(limited())

    return run


@on_a_loop
async def test_who_waits_gets_the_job_once_it_has_ended(redis_url: str) -> None:
    async with scene(redis_url, "hub-waits:") as at:
        with at.hub.listen(at.job.id) as listener:
            waiting = asyncio.create_task(wait_until_done(at.store, at.jobs, listener, at.job.id))

            await at.end()

            assert (await waiting).job == at.job.cancel(NOW)


@on_a_loop
async def test_who_leaves_in_the_middle_leaves_no_listener(redis_url: str) -> None:
    async with scene(redis_url, "hub-leaves:") as at:

        async def wait() -> None:
            with at.hub.listen(at.job.id) as listener:
                await wait_until_done(at.store, at.jobs, listener, at.job.id)

        waiting = [asyncio.create_task(wait()) for _ in range(10)]
        await asyncio.sleep(0)
        assert at.hub.listener_count == 10

        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        assert at.hub.listener_count == 0


@on_a_loop
async def test_a_listener_that_falls_behind_is_told_to_catch_up_and_loses_nothing(redis_url: str) -> None:
    async with scene(redis_url, "hub-behind:") as at:
        with at.hub.listen(at.job.id) as listener:
            told = job_events(at.store, at.jobs, listener, at.job.id, "")
            first = await anext(told)
            with at.hub.listen(at.job.id) as prompt:
                for step in range(1, BACKLOG + 50):
                    await at.report(step)
                    await prompt.next_event()

            await at.end()
            rest = [event async for event in told if event is not None]

    steps = [Progress.model_validate_json(event.data).step for event in rest if event.type == "progress"]
    assert first is not None
    assert steps == list(range(1, BACKLOG + 50))
    assert rest[-1].type == "done"


@on_a_loop
async def test_a_lost_subscription_is_made_anew_and_nothing_is_missed(redis_url: str) -> None:
    async with scene(redis_url, "hub-lost:") as at:
        with at.hub.listen(at.job.id) as listener:
            told = job_events(at.store, at.jobs, listener, at.job.id, "")
            seen = [await anext(told) for _ in range(2)]
            await at.store.client.client_kill_filter(_type="pubsub")

            for step in range(1, 30):
                await at.report(step)
            await at.end()
            rest = [event async for event in told if event is not None]

    assert [event.type for event in seen if event] == ["state", "state"]
    steps = [Progress.model_validate_json(event.data).step for event in rest if event.type == "progress"]
    assert steps == list(range(1, 30))


@on_a_loop
async def test_events_come_in_order_however_many_follow(redis_url: str) -> None:
    async with scene(redis_url, "hub-many:") as at:

        async def all_of_it() -> list[str]:
            with at.hub.listen(at.job.id) as listener:
                told = job_events(at.store, at.jobs, listener, at.job.id, "")
                return [event.id async for event in told if event is not None]

        followers = [asyncio.create_task(all_of_it()) for _ in range(20)]
        for step in range(1, 40):
            await at.report(step)
        await at.end()

        heard = await asyncio.gather(*followers)

    known = sorted(heard[0], key=events.stream_position)
    assert len(known) == 2 + 39 + 1
    assert all(ids == known for ids in heard)


@on_a_loop
async def test_a_silent_job_is_told_of_with_pings(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING_SECONDS", 0.05)
    async with scene(redis_url, "hub-silent:") as at:
        with at.hub.listen(at.job.id) as listener:
            told = job_events(at.store, at.jobs, listener, at.job.id, "")

            heard = [await anext(told) for _ in range(4)]

    assert [event is None for event in heard] == [False, False, True, True]
    assert events.format_event(None) == b": ping\n\n"


@on_a_loop
async def test_a_full_listener_keeps_no_more_than_its_backlog() -> None:
    listener = Listener()

    for number in range(10 * BACKLOG):
        listener.notify(JobEvent("job", f"1-{number}", "progress", "{}"))

    assert await listener.next_event() is None
    assert listener._heard.qsize() < BACKLOG
