"""Jobs that render in one batch get what they would get alone, and fail alone."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Barrier, get_ident
from typing import Any

import numpy as np

from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.jobs.states import State
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore
from tests.support.polling import TIMEOUT_SECONDS, wait_until
from tests.worker.bench import Bench, speckled, wake
from tests.worker.images.test_png import chunks
from tests.worker.jobs.batches import CountingEngine, run, scene, states, submit_all
from worker.engines.base import MultiJobWatch, Step
from worker.engines.null import NullEngine
from worker.images.encoder import Encoder
from worker.images.png import PngEncoder
from worker.images.values import Inputs, RenderedImage
from worker.jobs.batching import BatchWatch
from worker.jobs.finishers import SHORT_SECONDS, SideBySide


def test_each_job_gets_the_images_that_it_would_get_alone(bench: Bench, engine: CountingEngine) -> None:
    requests: list[dict[str, Any]] = [{"seed": 1}, {"seed": 7, "num_images": 2}, {"seed": 4}]
    together, alone = submit_all(bench, *requests), []
    run(bench, engine)
    for request in requests:
        alone.append(bench.submit(**request))
        run(bench, engine)

    assert engine.batches == [3, 1, 1, 1]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(bench.pixels(one), bench.pixels(other))


def test_jobs_of_a_batch_start_from_their_own_input_images(bench: Bench, engine: CountingEngine) -> None:
    requests: list[dict[str, Any]] = [{"seed": 3, "images": [scene(0)]}, {"seed": 3, "images": [scene(90)]}]
    together, alone = submit_all(bench, *requests), []
    run(bench, engine)
    for request in requests:
        alone.append(bench.submit(**request))
        run(bench, engine)

    assert engine.batches == [2, 1, 1]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(bench.pixels(one), bench.pixels(other))
    assert not np.array_equal(bench.pixels(together[0]), bench.pixels(together[1]))


def test_only_the_job_whose_input_image_is_lost_fails(bench: Bench, engine: CountingEngine) -> None:
    jobs = submit_all(bench, *({"images": [scene()]} for _ in range(3)))
    bench.inputs.discard(jobs[1])

    run(bench, engine)

    assert (engine.batches, states(bench, jobs)) == ([2], ["succeeded", "failed", "succeeded"])


def test_only_the_job_whose_mask_cannot_be_used_fails(bench: Bench, engine: CountingEngine) -> None:
    white, black = (PngEncoder().encode(np.full((64, 64, 3), shade, np.uint8)) for shade in (255, 0))
    jobs = submit_all(bench, *({"images": [scene()], "mask": mask} for mask in (white, black, white)))

    run(bench, engine)

    assert (engine.batches, states(bench, jobs)) == ([2], ["succeeded", "failed", "succeeded"])
    failed = bench.read(jobs[1]).error
    assert failed is not None
    assert failed.code == "invalid-image"


def test_a_job_is_recorded_before_the_image_of_the_next_one_is_stored(bench: Bench, engine: CountingEngine) -> None:
    class Slow(Encoder):
        def encode(self, image: RenderedImage, job: Job, *, in_bands: bool = True) -> bytes:
            if job.id == jobs[1].id:
                wait_until(lambda: bench.read(jobs[0]).state is State.SUCCEEDED)
            else:
                time.sleep(SHORT_SECONDS)
            return super().encode(image, job, in_bands=in_bands)

    jobs = submit_all(bench, {}, {})

    wake(bench.runner(engine, max_batch_size=4, encoder=Slow("1")))

    assert states(bench, jobs) == ["succeeded", "succeeded"]


def test_images_are_encoded_in_bands_only_if_no_other_job_is_stored_at_the_same_time(bench: Bench) -> None:
    size: dict[str, Any] = {"width": 768, "height": 512}
    encoder = Encoder("1", PngEncoder(2))

    def bands(*jobs: Job) -> list[int]:
        run(bench, NullEngine(), encoder=encoder)
        files = [bench.images.read(job, bench.read(job).images[0]) for job in jobs]
        return [[kind for kind, _ in chunks(file or b"")].count(b"IDAT") for file in files]

    assert bands(*submit_all(bench, size, size)) == [1, 1]
    assert bands(bench.submit(**size)) == [2]
    assert bands(bench.submit(**size, num_images=2)) == [2]


def test_a_batch_that_is_too_slow_renders_one_by_one_with_a_time_limit_each(bench: Bench) -> None:
    class Slow(NullEngine):
        def generate_batch(self, *args: Any) -> Sequence[Sequence[RenderedImage]]:
            while True:
                args[-1].on_step(Step(1, 1000))

    jobs = submit_all(bench, {}, {})

    run(bench, Slow(), time_limit_seconds=0.2)

    assert states(bench, jobs) == ["succeeded", "succeeded"]


def test_a_batch_that_fails_renders_one_by_one(bench: Bench, engine: CountingEngine) -> None:
    engine.fails = True
    jobs = submit_all(bench, {}, {}, {})

    run(bench, engine)

    assert (engine.batches, states(bench, jobs)) == ([3, 1, 1, 1], ["succeeded"] * 3)
    assert [bench.read(job).timings.batch_size for job in jobs] == [None] * 3


def test_a_job_that_fails_takes_no_other_along(bench: Bench, engine: CountingEngine) -> None:
    jobs = submit_all(bench, {}, {"metadata": {"simulate": {"fail": "out-of-memory"}}}, {})

    run(bench, engine)

    assert states(bench, jobs) == ["succeeded", "failed", "succeeded"]


def test_cancelling_ends_one_job_of_a_batch(bench: Bench) -> None:
    class Cancelling(NullEngine):
        """The second job is cancelled during the first step."""

        def generate_batch(
            self, requests: Sequence[GenerationRequest], inputs: Sequence[Inputs], watch: MultiJobWatch
        ) -> Sequence[Sequence[RenderedImage]]:
            bench.store.run(bench.jobs.request_cancel(jobs[1].id))
            assert isinstance(watch, BatchWatch)
            while not watch.ended:
                watch.on_step(Step(1, 1000))
            return super().generate_batch(requests, inputs, watch)

    jobs = submit_all(bench, {}, {}, {})

    run(bench, Cancelling())

    assert states(bench, jobs) == ["succeeded", "cancelled", "succeeded"]


def test_each_job_of_a_batch_reports_progress(bench: Bench) -> None:
    metadata = {"simulate": {"seconds": 0.3, "together": True}}
    jobs = submit_all(bench, {"metadata": metadata}, {"metadata": metadata})

    run(bench, NullEngine())

    for job in jobs:
        types = [event.type for event in bench.store.run(bench.jobs.read_events(job.id))]
        assert "progress" in types


@dataclass(frozen=True)
class Rendezvous(FolderStore):
    """A folder in which no file is complete before others are written at the same time."""

    others: Barrier = field(default_factory=lambda: Barrier(2))

    def create(self, name: str, data: bytes, staging_name: str) -> bool:
        self.others.wait(TIMEOUT_SECONDS)
        return super().create(name, data, staging_name)


def test_jobs_of_a_batch_wait_for_a_slow_storage_at_the_same_time(bench: Bench, engine: CountingEngine) -> None:
    jobs = submit_all(bench, {"seed": 1}, {"seed": 2})

    run(bench, engine, images=ImageStore(Rendezvous(bench.folder)))

    assert states(bench, jobs) == ["succeeded", "succeeded"]


def test_jobs_are_stored_on_threads_unless_that_takes_no_time() -> None:
    side_by_side = SideBySide()

    def threads(seconds: float) -> set[int]:
        def work(_: int) -> int:
            time.sleep(seconds)
            return get_ident()

        with side_by_side.run(work, range(4)) as results:
            return set(results)

    assert get_ident() not in threads(0)
    assert {get_ident()} == threads(0) == threads(SHORT_SECONDS)
    assert get_ident() not in threads(SHORT_SECONDS)


def test_an_image_is_taken_from_the_engine_once_the_one_before_is_stored(bench: Bench) -> None:
    class Lazy(list[RenderedImage]):
        """Like the images of a provider, which are decoded one at a time to fit into memory."""

        def __iter__(self) -> Iterator[RenderedImage]:
            for index in range(3):
                assert len(bench.files) == index
                yield self[index]

    job = bench.run(bench.submit(num_images=3), lambda *_: Lazy([RenderedImage(speckled(64, 64), 0)] * 3))

    assert (job.state, len(job.images)) == ("succeeded", 3)
