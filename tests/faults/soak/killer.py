"""Kills processes of the soak and measures how soon the interrupted work goes on."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx2
import psutil
import redis.asyncio

from shared.jobs.job import Job
from shared.jobs.states import State
from tests.faults.processes import child_of, kill_process_tree
from tests.faults.service import Service
from tests.faults.soak.tally import Tally
from tests.support.process import START_SECONDS
from tests.support.valkey import Valkey

API = "api-0"
DOWN_SECONDS = 1.0


class Killer:
    def __init__(
        self,
        valkey: Valkey,
        service: Service,
        store: "redis.asyncio.Redis",
        tally: Tally,
        slow: set[int],
        chance: random.Random,
    ) -> None:
        """`slow` are the numbers of the jobs that take long enough to be interrupted."""
        self._valkey = valkey
        self._service = service
        self._store = store
        self._prefix = service.prefix
        self._tally = tally
        self._slow = slow
        self._chance = chance

    async def kill(self, victim: str) -> float | None:
        """Kill a process. Returns the seconds until the interrupted work went on, None if nothing was interrupted."""
        match victim:
            case "api":
                self._service.processes[API].send(signal.SIGKILL)
                return await self._measure_recovery(self._is_live)
            case "housekeeper":
                kill_process_tree(self._service.processes["housekeeper"])
                return await self._measure_recovery(lambda: self._has_logged_ready("housekeeper"))
            case "valkey":
                self._valkey.kill()
                begin = time.monotonic()
                await asyncio.sleep(DOWN_SECONDS)
                await asyncio.to_thread(self._valkey.start)
                await self._wait_until(self._is_ready)
                return time.monotonic() - begin
            case _:
                return await self._kill_worker(victim)

    async def _kill_worker(self, part: str) -> float | None:
        name = self._chance.choice([name for name in self._service.null_workers if name.startswith("null")])
        job = await self._slow_job_of(name)
        process = self._service.processes[name]
        begin = time.monotonic()
        if part == "worker child":
            with suppress(psutil.Error, ValueError):
                child_of(process).kill()
        else:
            # Its child dies with it.
            process.send(signal.SIGKILL)
            await asyncio.sleep(0.1)
            self._service.restart_ended()
        if job is None:
            return None
        await self._wait_until(lambda: self._went_on(job.id))
        retries = self._tally.starts.get(job.id, [])[1:]
        return retries[0] - begin if retries else None

    async def _slow_job_of(self, worker: str) -> Job | None:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for job_id in map(str, await self._store.zrange(f"{self._prefix}jobs:state:{State.RUNNING}", 0, -1)):
                doc = await self._store.hget(f"{self._prefix}job:{job_id}", "doc")
                job = Job.model_validate_json(doc) if doc else None
                is_own = job is not None and _node(job.worker) == f"{worker}@{self._prefix.rstrip(':')}"
                if job and is_own and (job.request.metadata or {})["number"] in self._slow:
                    return job
            await asyncio.sleep(0.05)
        return None

    async def _measure_recovery(self, condition: Callable[[], Awaitable[bool]]) -> float:
        begin = time.monotonic()
        await asyncio.sleep(0.1)
        self._service.restart_ended()
        await self._wait_until(condition)
        return time.monotonic() - begin

    async def _wait_until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        end = time.monotonic() + START_SECONDS
        while not await condition():
            if time.monotonic() > end:
                raise AssertionError("the killed process did not come back")
            await asyncio.sleep(0.05)

    async def _is_live(self) -> bool:
        async with httpx2.AsyncClient(base_url=self._service.url(API)) as http:
            with suppress(httpx2.HTTPError):
                return (await http.get("/health/live")).status_code == 200
        return False

    async def _is_ready(self) -> bool:
        async with httpx2.AsyncClient(base_url=self._service.url(API)) as http:
            with suppress(httpx2.HTTPError):
                return (await http.get("/health/ready")).status_code == 200
        return False

    async def _has_logged_ready(self, name: str) -> bool:
        return any("ready." in line for line in self._service.processes[name].lines)

    async def _went_on(self, job_id: str) -> bool:
        return len(self._tally.starts.get(job_id, [])) > 1 or self._tally.ends[job_id] > 0


def _node(worker: str | None) -> str:
    """The name without the part that changes at each start."""
    return (worker or "").partition("#")[0]
