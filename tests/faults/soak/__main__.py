"""Runs many jobs while it kills processes at random: `python -m tests.faults.soak --jobs 20000 --every 30`.

There are two owners, one with three times the requests of the other, two backends, one of them paid, priorities and
cancellations. Prints a table, and exits with 1 if a promise was broken.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import psutil
import redis.asyncio
import redis.exceptions

from shared.jobs.states import State
from tests.faults.invariant import Invariant
from tests.faults.processes import child_of
from tests.faults.service import Service
from tests.faults.soak.killer import API, Killer
from tests.faults.soak.tally import Tally, broken, report, shares, table, unfair
from tests.support.polling import wait_until
from tests.support.valkey import Valkey
from tests.worker.engines.bfl.provider import KEY, Provider, provider

CALLERS = 32
NAMES = ("null-0", "null-1", "flux-api-0", "housekeeper", API)
VICTIMS = ("api", "worker child", "worker parent", "housekeeper", "valkey")
#: Slow jobs, so that a kill finds one running. All others are done at once.
SLOW_SHARE, SLOW_SECONDS = 0.01, 2.0
#: Jobs for the paid backend, with low priority, and cancelled as soon as they are accepted.
PAID_SHARE, LOW_SHARE, CANCELLED_SHARE = 0.03, 0.05, 0.03
#: Number of CALLERS of each owner.
OWNERS = {"anna": 24, "ben": 8}
KEYS = {name: f"key-of-{name}-0123456789" for name in OWNERS}
QUIET_SECONDS = 120.0


class Soak:
    def __init__(self, valkey: Valkey, service: Service, jobs: int, every: float, seed: int) -> None:
        self._service = service
        self._jobs = jobs
        self._every = every
        # Two generators, so that the requests do not depend on the number of kills.
        self._requests, self._chance = random.Random(seed), random.Random(seed + 1)
        self._store = redis.asyncio.Redis.from_url(valkey.url, decode_responses=True, socket_timeout=10)
        self._prefix = service.prefix
        self._tally = Tally()
        self._slow = self._some(SLOW_SHARE)
        self._paid, self._low, self._cancelled = map(self._some, (PAID_SHARE, LOW_SHARE, CANCELLED_SHARE))
        self._killer = Killer(valkey, service, self._store, self._tally, self._slow, self._chance)

    def _some(self, share: float) -> set[int]:
        return {number for number in range(self._jobs) if self._requests.random() < share}

    async def run(self) -> Tally:
        begin = time.monotonic()
        over = asyncio.Event()
        watching = [asyncio.create_task(work()) for work in (self._watch, self._measure, self._report)]
        killing, calling = asyncio.create_task(self._kill_often(over)), asyncio.create_task(self._call_all())
        try:
            await first_of(calling, killing, *watching)
            say(f"{self._jobs} jobs accepted after {time.monotonic() - begin:.0f} s; waiting for the last ones")
            over.set()
            await first_of(killing, *watching)
            await self._quiet()
        finally:
            for task in (killing, calling, *watching):
                task.cancel()
            await self._store.aclose()
        return self._tally

    async def _quiet(self) -> None:
        """Wait until all processes are back and no work is left."""
        invariant = Invariant(self._service)

        def done() -> bool:
            self._service.restart_ended()
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
        # Callers that always wait have no queued jobs, so an owner's share could not be measured.
        path = "/api/txt2img" if number % 10 == 0 and number not in self._cancelled else "/api/jobs"
        try:
            answer = await http.post(path, json=self._request(number), headers=headers)
        except httpx2.HTTPError as error:
            self._tally.answers[type(error).__name__] += 1
            await asyncio.sleep(0.2)
            return False
        self._tally.answers[str(answer.status_code)] += 1
        # A job whose acceptance is unconfirmed is submitted again with the same key.
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

    # Kills

    async def _kill_often(self, over: asyncio.Event) -> None:
        order: list[str] = []
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._every)
            self._tally.unexpected_ends += self._service.restart_ended()
            if over.is_set():
                return
            order = order or self._chance.sample(VICTIMS, len(VICTIMS))
            victim = order.pop()
            self._tally.kills[victim] += 1
            say(f"kill -9 {victim}")
            took = await self._killer.kill(victim)
            if took is not None:
                self._tally.recoveries.setdefault(victim, []).append(took)
                say(f"kill -9 {victim}: recovered after {took:.1f} s")

    # Watching

    async def _watch(self) -> None:
        while True:
            with suppress(redis.exceptions.RedisError, OSError):
                async with self._store.pubsub() as news:
                    await news.subscribe(f"{self._prefix}events")
                    while True:
                        self._count(await news.get_message(ignore_subscribe_messages=True, timeout=5))
            await asyncio.sleep(0.05)

    def _count(self, message: dict[str, str] | None) -> None:
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
                    # A zombie has no memory.
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

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(10)
            tally = self._tally
            say(f"{len(tally.accepted)} accepted, {len(tally.ends)} ended, {json.dumps(tally.answers)}")


async def first_of(*tasks: "asyncio.Task[None]") -> None:
    """Wait for the first task. Raises the error of any task, and an error if another task ends before."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    if tasks[0] not in done:
        raise AssertionError("a background task ended too early")


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


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
        service = stack.enter_context(Service(valkey.url, folder, NAMES, **settings(bfl)))
        service.housekeeper = "worker.housekeeper.main"
        service.start_missing()
        invariant = Invariant(service)
        bytes_before = int(invariant.redis.info("memory")["used_memory"])
        begin = time.monotonic()
        tally = asyncio.run(Soak(valkey, service, args.jobs, args.every, args.seed).run())
        rows = [("took", f"{time.monotonic() - begin:.0f} s"), *report(tally, invariant, bytes_before)]
        posts = Counter(post.body["seed"] for post in bfl.posts)
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
