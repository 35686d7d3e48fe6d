"""What jobs that wait gain by being rendered together."""

import time
from collections.abc import Callable, Iterator

from bench.figures import Figure, Goal, Scale, compare
from bench.service import STARTER_REQUEST, starting
from bench.worker.overhead import caller
from tests.stack import Stack

JOBS, BATCH = 8, 4
#: Of the job behind which the others queue up; other than theirs, so that none is rendered with it.
OCCUPIED_STEPS = 8


def batches(alone: Stack, scale: Scale) -> Iterator[Figure]:
    """`alone` is a service whose worker makes one image of the starter model at a time."""
    with starting("sd", SD_MAX_BATCH_SIZE=str(BATCH)) as together:
        caller(together.api, STARTER_REQUEST)()
        sizes: list[int] = []
        batched, one_by_one = queued(together, sizes), queued(alone, [])
        result = compare(batched, one_by_one, scale, f"{JOBS} jobs that wait, {BATCH} at once")
    # A job tells how many were in its call: n of them are one call.
    calls = sum(1 / size for size in sizes) / (len(sizes) / JOBS)
    yield result.figure(
        f"{JOBS} queued starter jobs, batch {BATCH} / one by one",
        Goal(0.6),
        f"{result.our_median:.2f} s, one by one {result.their_median:.2f} s",
    )
    yield Figure(f"pipeline calls for {JOBS} queued jobs, batch {BATCH}", calls, "calls", Goal(JOBS / BATCH))


def queued(stack: Stack, sizes: list[int]) -> Callable[[], float]:
    """Seconds from the moment at which a worker is free for jobs that are all in line, to the last one's end."""

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
