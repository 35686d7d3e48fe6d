"""What queued jobs gain from being rendered in a batch."""

import time
from collections.abc import Callable, Iterator

from bench.figures import Figure, Goal, Scale, compare
from bench.service import STARTER_REQUEST, starting
from bench.worker.overhead import caller
from tests.stack import Stack

JOBS, BATCH = 8, 4
#: Steps of the job that occupies the worker while the others queue; different, so that it is in no batch with them.
OCCUPIED_STEPS = 8


def batches(alone: Stack, scale: Scale) -> Iterator[Figure]:
    """`alone` is a service whose worker renders one image of the starter model at a time."""
    with starting("sd", SD_MAX_BATCH_SIZE=str(BATCH)) as together:
        caller(together.api, STARTER_REQUEST)()
        sizes: list[int] = []
        batched, one_by_one = queued(together, sizes), queued(alone, [])
        result = compare(batched, one_by_one, scale, f"{JOBS} queued jobs, {BATCH} at once")
    # Each job reports the size of its batch: n jobs are one call.
    calls = sum(1 / size for size in sizes) / (len(sizes) / JOBS)
    yield result.figure(
        f"{JOBS} queued starter jobs, batch {BATCH} / one by one",
        Goal(0.6),
        f"{result.our_median:.2f} s, one by one {result.their_median:.2f} s",
    )
    yield Figure(f"pipeline calls for {JOBS} queued jobs, batch {BATCH}", calls, "calls", Goal(JOBS / BATCH))


def queued(stack: Stack, sizes: list[int]) -> Callable[[], float]:
    """Measures the seconds from the moment when the worker is free, with all jobs queued, to the end of the last."""

    def run() -> float:
        occupied = submit(stack, num_inference_steps=OCCUPIED_STEPS)
        with stack.api.events(occupied) as events:
            assert any(event.data.get("state") == "running" for event in events)
        jobs = [submit(stack, seed=seed) for seed in range(JOBS)]
        stack.api.wait_until_done(occupied)
        begin = time.perf_counter()
        ended = [stack.api.wait_until_done(job) for job in jobs]
        sizes.extend(job["timings"]["batch_size"] or 1 for job in ended)
        return time.perf_counter() - begin

    return run


def submit(stack: Stack, **fields: int) -> str:
    job_id: str = stack.api.post("/api/jobs", {**STARTER_REQUEST, **fields}).json()["id"]
    return job_id
