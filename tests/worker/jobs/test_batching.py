"""Jobs that wait and are alike are rendered in one go."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.errors import OutOfMemory
from shared.jobs.admission import QueueLimits
from shared.jobs.job import Job, QueuedJob
from shared.jobs.requests import GenerationRequest
from shared.jobs.states import State
from shared.jobs.types import Backend
from tests.polling import wait_until
from tests.worker.bench import Bench, wake
from worker.engines.base import JobWatch, MultiJobWatch, Step
from worker.engines.null import NullEngine
from worker.images import png
from worker.images.encoder import Encoder
from worker.images.values import Inputs, RenderedImage
from worker.jobs.runner import SHORT_SECONDS
from worker.records.redis_job_store import RedisJobStore

_numbers = itertools.count()


@dataclass
class Counting(NullEngine):
    """The null backend, which remembers how many jobs it was given at a time."""

    goes: list[int] = field(default_factory=list)
    fails: bool = False
    """Whether it cannot do several."""

    is_lost: bool = False
    """Whether it does not know how many it could do."""

    def batch_capacity(self, request: GenerationRequest) -> int:
        if self.is_lost:
            raise RuntimeError("the device does not answer")
        return super().batch_capacity(request)

    def generate(self, request: GenerationRequest, inputs: Inputs, watch: JobWatch) -> Sequence[RenderedImage]:
        self.goes.append(1)
        return super().generate(request, inputs, watch)

    def generate_batch(
        self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
    ) -> Sequence[Sequence[RenderedImage]]:
        self.goes.append(len(requests))
        if self.fails:
            raise OutOfMemory
        return super().generate_batch(requests, inputs, watch)


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"together{next(_numbers)}:", tmp_path / "outputs")


@pytest.fixture
def backend() -> Counting:
    return Counting()


def run(bench: Bench, backend: NullEngine, most: int = 4, **parts: Any) -> None:
    wake(bench.runner(backend, max_batch_size=most, **parts))


def accepted(bench: Bench, *requests: dict[str, Any]) -> list[Job]:
    return [bench.submit(**request) for request in requests]


def scene(turned: int = 0, width: int = 64) -> bytes:
    """A PNG file of coloured grain."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, width, 3), np.uint8)
    return png.encode(np.ascontiguousarray(np.rot90(pixels, turned // 90)), {})


def new_job() -> Job:
    return Job.new(GenerationRequest(prompt="x"), Backend.NULL, datetime.now(UTC))


def states(bench: Bench, jobs: Sequence[Job]) -> list[str]:
    return [bench.read(job).state for job in jobs]


def test_jobs_that_are_alike_are_rendered_in_one_go(bench: Bench, backend: Counting) -> None:
    hook = {"webhook_url": "https://example.com/hook", "webhook_events": ["started"]}
    jobs = accepted(bench, {"seed": 1}, {"seed": 2, "prompt": "another"}, {"seed": 3, "label": "mine", **hook})

    run(bench, backend)

    assert (backend.goes, states(bench, jobs)) == ([3], ["succeeded"] * 3)
    assert [bench.read(job).timings.batch_size for job in jobs] == [3, 3, 3]


def test_a_backend_that_cannot_tell_how_many_fit_makes_the_job_alone(bench: Bench, backend: Counting) -> None:
    backend.is_lost = True
    jobs = accepted(bench, {"seed": 1}, {"seed": 2})

    run(bench, backend)

    assert (backend.goes, states(bench, jobs)) == ([1], ["succeeded", "queued"])


def test_each_image_is_the_one_that_its_job_would_get_alone(bench: Bench, backend: Counting) -> None:
    requests = [{"seed": 1}, {"seed": 7, "num_images": 2}, {"seed": 4}]
    together, alone = accepted(bench, *requests), []
    run(bench, backend)
    for request in requests:
        alone.append(bench.submit(**request))
        run(bench, backend, alone[-1])

    assert backend.goes == [3, 1, 1, 1]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(bench.pixels(one), bench.pixels(other))


def test_jobs_that_begin_with_images_go_together_each_with_its_own(bench: Bench, backend: Counting) -> None:
    requests = [{"seed": 3, "images": [scene(0)]}, {"seed": 3, "images": [scene(90)]}]
    together, alone = accepted(bench, *requests), []
    run(bench, backend)
    for request in requests:
        alone.append(bench.submit(**request))
        run(bench, backend, alone[-1])

    assert backend.goes == [2, 1, 1]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(bench.pixels(one), bench.pixels(other))
    assert not np.array_equal(bench.pixels(together[0]), bench.pixels(together[1]))


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"images": [scene(width=96)]},
        {"images": [scene(), scene()]},
        {"images": [scene()], "strength": 0.1},
        {"images": [scene()], "mask": scene()},
    ],
    ids=["no image", "one of another size", "two", "another strength", "a mask"],
)
def test_a_job_that_begins_otherwise_is_left_in_line(bench: Bench, backend: Counting, other: dict[str, Any]) -> None:
    jobs = accepted(bench, {"images": [scene()]}, other)

    run(bench, backend)

    assert states(bench, jobs) == ["succeeded", "queued"]


def test_a_job_whose_image_is_lost_fails_alone(bench: Bench, backend: Counting) -> None:
    jobs = accepted(bench, *({"images": [scene()]} for _ in range(3)))
    bench.inputs.discard(jobs[1])

    run(bench, backend)

    assert (backend.goes, states(bench, jobs)) == ([2], ["succeeded", "failed", "succeeded"])


def test_a_mask_that_cannot_be_used_fails_its_job_alone(bench: Bench, backend: Counting) -> None:
    white, black = (png.encode(np.full((64, 64, 3), shade, np.uint8), {}) for shade in (255, 0))
    jobs = accepted(bench, *({"images": [scene()], "mask": mask} for mask in (white, black, white)))

    run(bench, backend)

    assert (backend.goes, states(bench, jobs)) == ([2], ["succeeded", "failed", "succeeded"])
    failed = bench.read(jobs[1]).error
    assert failed is not None
    assert failed.code == "invalid-image"


def test_a_job_that_is_refused_takes_no_room_from_others(bench: Bench, backend: Counting) -> None:
    late = {"seed": 2, "num_images": 3, "deadline_seconds": 1}
    jobs = accepted(bench, {"seed": 1}, late, {"seed": 5}, {"seed": 6})
    bench.now = lambda: datetime.now(UTC) + timedelta(hours=1)

    run(bench, backend)

    assert (backend.goes, states(bench, jobs)) == ([3], ["succeeded", "failed", "succeeded", "succeeded"])


@pytest.mark.parametrize("taken", [0, 1])
def test_a_job_that_somebody_else_takes_meanwhile_is_theirs(bench: Bench, backend: Counting, taken: int) -> None:
    class Late(RedisJobStore):
        """Another worker is faster, just after this one has looked."""

        def peek(self, limit: int) -> Sequence[QueuedJob]:
            queued = super().peek(limit)
            bench.start(jobs[taken])
            return queued

    jobs = accepted(bench, {}, {}, {})

    wake(bench.runner(backend, job_store=Late(bench.store, bench.jobs, Backend.NULL), max_batch_size=4))

    assert backend.goes == [2]
    assert [bench.read(job).worker for job in jobs] == ["another worker" if n == taken else "bench" for n in range(3)]


def test_a_image_is_told_of_before_the_next_one_is_stored(bench: Bench, backend: Counting) -> None:
    class Slow(Encoder):
        def encode(self, image: RenderedImage, job: Job) -> bytes:
            if job.id == jobs[1].id:
                wait_until(lambda: bench.read(jobs[0]).state is State.SUCCEEDED)
            else:
                time.sleep(SHORT_SECONDS)
            return super().encode(image, job)

    jobs = accepted(bench, {}, {})

    wake(bench.runner(backend, max_batch_size=4, encoder=Slow("1")))

    assert states(bench, jobs) == ["succeeded", "succeeded"]


def test_a_redis_that_has_forgotten_the_scripts_learns_them_again(bench: Bench, backend: Counting) -> None:
    jobs = accepted(bench, {}, {})
    bench.store.client.script_flush()

    run(bench, backend)

    assert (backend.goes, states(bench, jobs)) == ([2], ["succeeded", "succeeded"])


def test_a_lone_job_waits_for_nobody(bench: Bench, backend: Counting) -> None:
    (job,) = accepted(bench, {})

    run(bench, backend)

    assert (backend.goes, bench.read(job).timings.batch_size) == ([1], None)


@pytest.mark.parametrize(
    "other",
    [{"width": 128}, {"num_inference_steps": 9}, {"guidance_scale": 2.0}],
    ids=lambda other: next(iter(other)),
)
def test_a_job_that_differs_is_left_in_line(bench: Bench, backend: Counting, other: dict[str, Any]) -> None:
    jobs = accepted(bench, {}, other)

    run(bench, backend)

    assert states(bench, jobs) == ["succeeded", "queued"]


def test_a_default_that_is_spelled_out_makes_no_difference(bench: Bench, backend: Counting) -> None:
    accepted(bench, {}, {"width": 64, "height": 64, "num_inference_steps": 4})

    run(bench, backend)

    assert backend.goes == [2]


def test_no_more_images_than_allowed_are_rendered_in_one_go(bench: Bench, backend: Counting) -> None:
    jobs = accepted(bench, {"num_images": 2}, {"num_images": 3}, {}, {}, {})

    run(bench, backend, most=4)

    assert states(bench, jobs) == ["succeeded", "queued", "succeeded", "succeeded", "queued"]


def test_jobs_that_were_taken_along_leave_no_wake_up_behind(bench: Bench, backend: Counting) -> None:
    accepted(bench, {"priority": "low"}, {}, {"priority": "high"})

    run(bench, backend)

    assert (backend.goes, bench.wake_ups()) == ([3], 0)


def test_no_more_are_rendered_together_than_are_known_to_take_the_time_of_one(bench: Bench, backend: Counting) -> None:
    for _ in range(4):
        # Known to take 4 s: two of them take less than half of 20 s, three do not.
        bench.store.run(bench.jobs.create(new_job(), QueueLimits(10, 10), expected_ms=4000))

    run(bench, backend, time_limit_seconds=20.0)

    assert backend.goes == [2]


def test_jobs_that_are_too_slow_together_are_done_one_by_one_each_with_its_own_time(bench: Bench) -> None:
    class Slow(NullEngine):
        def generate_batch(self, *args: Any) -> Sequence[Sequence[RenderedImage]]:
            while True:
                args[-1].on_step(Step(1, 1000))

    jobs = accepted(bench, {}, {})

    run(bench, Slow(), time_limit_seconds=0.2)

    assert states(bench, jobs) == ["succeeded", "succeeded"]


def test_what_fails_together_is_done_one_by_one(bench: Bench, backend: Counting) -> None:
    backend.fails = True
    jobs = accepted(bench, {}, {}, {})

    run(bench, backend)

    assert (backend.goes, states(bench, jobs)) == ([3, 1, 1, 1], ["succeeded"] * 3)
    assert [bench.read(job).timings.batch_size for job in jobs] == [None] * 3


def test_one_that_fails_takes_no_other_along(bench: Bench, backend: Counting) -> None:
    jobs = accepted(bench, {}, {"metadata": {"simulate": {"fail": "out-of-memory"}}}, {})

    run(bench, backend)

    assert states(bench, jobs) == ["succeeded", "failed", "succeeded"]


def test_a_cancel_ends_one_job_and_leaves_the_others(bench: Bench) -> None:
    class Cancelling(NullEngine):
        """Somebody cancels the second job while the first step is made; its worker hears of it in time."""

        def generate_batch(
            self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
        ) -> Sequence[Sequence[RenderedImage]]:
            bench.store.run(bench.jobs.request_cancel(jobs[1].id))
            while not watch.ended:  # type: ignore[attr-defined]
                watch.on_step(Step(1, 1000))
            return super().generate_batch(requests, inputs, watch)

    jobs = accepted(bench, {}, {}, {})

    run(bench, Cancelling())

    assert states(bench, jobs) == ["succeeded", "cancelled", "succeeded"]


def test_each_job_that_is_taken_along_tells_of_its_own_progress(bench: Bench) -> None:
    told = {"simulate": {"seconds": 0.3, "together": True}}
    jobs = accepted(bench, {"metadata": told}, {"metadata": told})

    run(bench, NullEngine())

    for job in jobs:
        types = [event.type for event in bench.store.run(bench.jobs.read_events(job.id))]
        assert "progress" in types


def test_a_job_that_cost_a_worker_is_done_alone(bench: Bench, backend: Counting) -> None:
    lost, _ = accepted(bench, {}, {})
    bench.requeue(bench.start(lost))

    run(bench, backend)
    run(bench, backend)

    assert backend.goes == [1, 1]
