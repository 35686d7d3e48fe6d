"""Many jobs while processes are killed at random: `python -m tests.faults.soak --jobs 20000 --every 30`.

Two owners, one of whom asks three times as much, two backends, one of which costs money, priorities and cancels. Ends
with a table, and with 1 when a promise was broken.
"""

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import redis.asyncio
import redis.exceptions

from shared.jobs.job import Job
from shared.jobs.states import State
from tests.faults.invariant import Invariant
from tests.faults.processes import child_of, kill_process_tree
from tests.faults.service import Service
from tests.faults.tally import Tally, broken, report, shares, table, unfair
from tests.polling import wait_until
from tests.stack import START_SECONDS
from tests.valkey import Valkey
from tests.worker.engines.bfl.provider import KEY, Provider, provider

CALLERS = 32
API = "api-0"
NAMES = ("null-0", "null-1", "flux-api-0", "housekeeper", API)
VICTIMS = ("api", "worker child", "worker parent", "housekeeper", "valkey")
#: Jobs that take a while, so that a kill finds one running; the others are done at once.
SLOW_SHARE, SLOW_SECONDS = 0.01, 2.0
#: Jobs that a provider is paid for, that may wait for others, and that are cancelled as soon as they are accepted.
PAID_SHARE, LOW_SHARE, CANCELLED_SHARE = 0.03, 0.05, 0.03
#: How many of CALLERS each owner has.
OWNERS = {"anna": 24, "ben": 8}
KEYS = {name: f"key-of-{name}-0123456789" for name in OWNERS}
DOWN_SECONDS = 1.0
QUIET_SECONDS = 120.0


class Soak:
    def __init__(self, valkey: Valkey, service: Service, jobs: int, every: float, seed: int) -> None:
        self._valkey = valkey
        self._service = service
        self._jobs = jobs
        self._every = every
        # What is asked for does not depend on how often something was killed.
        self._asked, self._chance = random.Random(seed), random.Random(seed + 1)
        self._store = redis.asyncio.Redis.from_url(valkey.url, decode_responses=True, socket_timeout=10)
        self._prefix = service.prefix
        self._tally = Tally()
        self._slow = self._some(SLOW_SHARE)
        self._paid, self._low, self._cancelled = map(self._some, (PAID_SHARE, LOW_SHARE, CANCELLED_SHARE))

    def _some(self, share: float) -> set[int]:
        return {number for number in range(self._jobs) if self._asked.random() < share}

    async def run(self) -> Tally:
        begin = time.monotonic()
        over = asyncio.Event()
        watching = [asyncio.create_task(work()) for work in (self._watch, self._measure, self._tell)]
        harming, calling = asyncio.create_task(self._harm(over)), asyncio.create_task(self._call_all())
        try:
            await first_of(calling, harming, *watching)
            say(f"{self._jobs} jobs accepted after {time.monotonic() - begin:.0f} s; waiting for the last ones")
            over.set()
            await first_of(harming, *watching)
            await self._quiet()
        finally:
            for task in (harming, calling, *watching):
                task.cancel()
            await self._store.aclose()
        return self._tally

    async def _quiet(self) -> None:
        """Until every process is back and nothing is left to do."""
        invariant = Invariant(self._service)

        def done() -> bool:
            self._service.restart_what_ended()
            with suppress(redis.exceptions.RedisError):
                return not invariant.busy()
            return False

        await asyncio.to_thread(wait_until, done, invariant.busy, QUIET_SECONDS)

    # Callers

    async def _call_all(self) -> None:
        numbers = iter(range(self._jobs))
        limits = httpx2.Limits(max_connections=CALLERS)
        async with httpx2.AsyncClient(base_url=self._service.url(API), timeout=90, limits=limits) as http:
            callers = [name for name, count in OWNERS.items() for _ in range(count)]
            await asyncio.gather(*(self._call(http, owner, numbers) for owner in callers))

    async def _call(self, http: httpx2.AsyncClient, owner: str, numbers: Iterator[int]) -> None:
        for number in numbers:
            while not await self._submit(http, owner, number):
                pass

    async def _submit(self, http: httpx2.AsyncClient, owner: str, number: int) -> bool:
        headers = {"Idempotency-Key": f"soak-{number}", "X-API-Key": KEYS[owner]}
        # Who waits for each image has none queued meanwhile: one owner's share could not be seen.
        path = "/api/txt2img" if number % 10 == 0 and number not in self._cancelled else "/api/jobs"
        try:
            answer = await http.post(path, json=self._request(number), headers=headers)
        except httpx2.HTTPError as error:
            self._tally.answers[type(error).__name__] += 1
            await asyncio.sleep(0.2)
            return False
        self._tally.answers[str(answer.status_code)] += 1
        # One whose acceptance could not be told is asked for again, under the same key.
        if "x-job-id" in answer.headers and answer.status_code != 503:
            known = self._tally.accepted.setdefault(number, answer.headers["x-job-id"])
            if known != answer.headers["x-job-id"]:
                self._tally.answers["another job for the same key"] += 1
            if number in self._cancelled:
                with suppress(httpx2.HTTPError):
                    await http.delete(f"/api/jobs/{known}", headers=headers)
            return True
        if answer.status_code not in (429, 503):
            raise AssertionError(f"{answer.status_code}: {answer.text}")
        await asyncio.sleep(float(answer.headers["retry-after"]) * random.uniform(0.5, 1.0))
        return False

    def _request(self, number: int) -> dict[str, Any]:
        seconds = SLOW_SECONDS if number in self._slow else 0
        request: dict[str, Any] = {
            "prompt": "x",
            "seed": number,
            "priority": "low" if number in self._low else "normal",
        }
        request["metadata"] = {"number": number, "simulate": {"seconds": seconds}}
        return request | ({"backend": "flux-api"} if number in self._paid else {})

    # Harm

    async def _harm(self, over: asyncio.Event) -> None:
        order: list[str] = []
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._every)
            self._tally.ended_unasked += self._service.restart_what_ended()
            if over.is_set():
                return
            order = order or self._chance.sample(VICTIMS, len(VICTIMS))
            victim = order.pop()
            self._tally.kills[victim] += 1
            say(f"kill -9 {victim}")
            took = await self._kill(victim)
            if took is not None:
                self._tally.recoveries.setdefault(victim, []).append(took)
                say(f"kill -9 {victim}: over after {took:.1f} s")

    async def _kill(self, victim: str) -> float | None:
        """How long it took until what was interrupted went on; None where nothing was."""
        match victim:
            case "api":
                self._service.processes[API].send(signal.SIGKILL)
                return await self._again(self._answers)
            case "housekeeper":
                kill_process_tree(self._service.processes["housekeeper"])
                return await self._again(lambda: self._says_ready("housekeeper"))
            case "valkey":
                self._valkey.kill()
                begin = time.monotonic()
                await asyncio.sleep(DOWN_SECONDS)
                await asyncio.to_thread(self._valkey.start)
                await self._until(self._accepts)
                return time.monotonic() - begin
            case _:
                return await self._kill_worker(victim)

    async def _kill_worker(self, part: str) -> float | None:
        name = self._chance.choice([name for name in self._service.renderers if name.startswith("null")])
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
            self._service.restart_what_ended()
        if job is None:
            return None
        await self._until(lambda: self._moved_on(job.id))
        again = self._tally.starts.get(job.id, [])[1:]
        return again[0] - begin if again else None

    async def _slow_job_of(self, worker: str) -> Job | None:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            for job_id in await self._store.zrange(f"{self._prefix}jobs:state:{State.RUNNING}", 0, -1):
                doc = await self._store.hget(f"{self._prefix}job:{job_id}", "doc")
                job = Job.model_validate_json(doc) if doc else None
                is_its = job is not None and _node(job.worker) == f"{worker}@{self._prefix.rstrip(':')}"
                if job and is_its and (job.request.metadata or {})["number"] in self._slow:
                    return job
            await asyncio.sleep(0.05)
        return None

    async def _again(self, true: Callable[[], Awaitable[bool]]) -> float:
        begin = time.monotonic()
        await asyncio.sleep(0.1)
        self._service.restart_what_ended()
        await self._until(true)
        return time.monotonic() - begin

    async def _until(self, true: Callable[[], Awaitable[bool]]) -> None:
        end = time.monotonic() + START_SECONDS
        while not await true():
            if time.monotonic() > end:
                raise AssertionError("what was killed did not come back")
            await asyncio.sleep(0.05)

    async def _answers(self) -> bool:
        async with httpx2.AsyncClient(base_url=self._service.url(API)) as http:
            with suppress(httpx2.HTTPError):
                return (await http.get("/health/live")).status_code == 200
        return False

    async def _accepts(self) -> bool:
        async with httpx2.AsyncClient(base_url=self._service.url(API)) as http:
            with suppress(httpx2.HTTPError):
                return (await http.get("/health/ready")).status_code == 200
        return False

    async def _says_ready(self, name: str) -> bool:
        return any("ready." in line for line in self._service.processes[name].lines)

    async def _moved_on(self, job_id: str) -> bool:
        return len(self._tally.starts.get(job_id, [])) > 1 or self._tally.ends[job_id] > 0

    # Watching

    async def _watch(self) -> None:
        while True:
            with suppress(redis.exceptions.RedisError, OSError):
                async with self._store.pubsub() as news:
                    await news.subscribe(f"{self._prefix}events")
                    while True:
                        self._hear(await news.get_message(ignore_subscribe_messages=True, timeout=5))
            await asyncio.sleep(0.05)

    def _hear(self, message: dict[str, str] | None) -> None:
        if message is None:
            return
        job_id, _, kind, data = message["data"].split(" ", 3)
        if kind == "done":
            self._tally.ends[job_id] += 1
        elif (kind, data) == ("state", State.RUNNING):
            self._tally.starts.setdefault(job_id, []).append(time.monotonic())

    async def _measure(self) -> None:
        while True:
            for role, process in self._roles():
                samples = self._tally.memory.setdefault(role, {}).setdefault(process.pid, [])
                with suppress(psutil.Error):
                    # One that has been killed and not been buried yet has no memory.
                    if rss := process.memory_info().rss:
                        samples.append((time.time() - process.create_time(), rss))
            await asyncio.sleep(2)

    def _roles(self) -> list[tuple[str, psutil.Process]]:
        found = []
        with suppress(psutil.Error, ValueError):
            found.append(("api", psutil.Process(self._service.processes[API].pid)))
            for name in ("null-0", "null-1"):
                found.append(("worker parent", psutil.Process(self._service.processes[name].pid)))
                found.append(("worker child", child_of(self._service.processes[name])))
        return found

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(10)
            tally = self._tally
            say(f"{len(tally.accepted)} accepted, {len(tally.ends)} ended, {json.dumps(tally.answers)}")


async def first_of(*tasks: "asyncio.Task[None]") -> None:
    """Until the first of them is done. The others should not end before; an error in any of them is raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    if tasks[0] not in done:
        raise AssertionError("a background task ended too early")


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _node(worker: str | None) -> str:
    """What records call a worker has something behind it that is another at each start."""
    return (worker or "").partition("#")[0]


def settings(bfl: Provider) -> dict[str, str]:
    return {
        "SD_BACKENDS": "null,flux-api",
        "SD_DEFAULT_BACKEND": "null",
        "SD_BFL_API_KEY": KEY,
        "SD_BFL_BASE_URL": bfl.api_url,
        "SD_API_KEY": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
        "SD_MAX_QUEUED_JOBS": "200",
        "SD_MAX_JOBS_PER_KEY": "100",
        "SD_REQUESTS_PER_SECOND": "100000",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--table", type=Path, help="where to write the table too")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="imagegen-soak-"))
    (folder / "valkey").mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        bfl = stack.enter_context(provider())
        service = stack.enter_context(Service(valkey.url, folder, NAMES, quick=False, **settings(bfl)))
        service.mend()
        invariant = Invariant(service)
        bytes_before = int(invariant.redis.info("memory")["used_memory"])
        begin = time.monotonic()
        tally = asyncio.run(Soak(valkey, service, args.jobs, args.every, args.seed).run())
        rows = [("took", f"{time.monotonic() - begin:.0f} s"), *report(tally, invariant, bytes_before)]
        posts = Counter(asked.body["seed"] for asked in bfl.posts)
        rows.append(
            ("posts to the provider, of which for a second time", f"{posts.total()}, {posts.total() - len(posts)}")
        )
        rows.append(("share of the first owner by the minute", shares(invariant)))
        failures = [*broken(tally, invariant), *unfair(invariant)]
        failures += [f"job {seed} was paid for {count} times" for seed, count in posts.items() if count > 1]
        if failures:
            for name, process in service.processes.items():
                (Path(tempfile.gettempdir()) / f"soak-{name}.log").write_text(process.output)
    text = table([*rows, ("broken promises", str(len(failures)))])
    say("\n" + "\n".join([*failures[:20], text]))
    if args.table:
        args.table.write_text(text + "\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
