"""What a later attempt of a job does with the work of an earlier one."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from shared.errors import OutOfMemory
from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.redis.keys import Keys
from shared.storage.folder import FolderStore
from shared.storage.images import ImageStore, image_name
from tests.support.polling import wait_until
from tests.worker.bench import Bench, canvas, speckled, wake
from worker.engines.base import JobWatch, Step
from worker.engines.null import NullEngine
from worker.images.values import RenderedImage


def test_warnings_survive_a_lost_worker(bench: Bench) -> None:
    queued = bench.lose_worker_before_recording(bench.submit(num_images=2, metadata={"simulate": {"flag": 1}}))

    assert bench.run(queued).warnings == ("the safety checker rejected 1 of 2 images",)


def test_images_that_a_lost_worker_stored_are_recorded_and_not_rendered_again(bench: Bench) -> None:
    def never(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise AssertionError

    queued = bench.lose_worker_before_recording(bench.submit())

    done = bench.run(queued, never)

    assert (done.state, done.attempt) == ("succeeded", 2)
    assert [file.name for file in bench.files] == [f"{done.id}-0.png"]


def test_a_job_keeps_its_lease_while_its_stored_images_cannot_be_read(bench: Bench) -> None:
    """A storage that is away is waited for, and the job counts as lost after ten seconds without a renewal."""
    queued = bench.lose_worker_before_recording(bench.submit())

    def lease() -> float:
        score: Any = bench.store.client.zscore(Keys(bench.prefix).leases, queued.id)
        return float(score)

    class SlowStore(FolderStore):
        def read(self, name: str) -> bytes | None:
            granted = lease()
            wait_until(lambda: lease() > granted, seconds=20)
            return super().read(name)

    wake(bench.runner(NullEngine(), ImageStore(SlowStore(bench.folder))))

    assert (bench.read(queued).state, bench.read(queued).attempt) == ("succeeded", 2)


def test_a_truncated_image_of_a_lost_worker_is_rendered_again(bench: Bench) -> None:
    queued = bench.lose_worker_before_recording(bench.submit())
    image = bench.folder / image_name(queued, 0)
    image.write_bytes(image.read_bytes()[:-1])

    done = bench.run(queued)

    assert done.state == "succeeded"
    assert_as_recorded(bench, done)


def test_a_worker_that_lost_its_job_keeps_no_image(bench: Bench) -> None:
    job = bench.submit()

    def draw_for_ever(_: GenerationRequest, watch: JobWatch) -> Sequence[RenderedImage]:
        other = bench.start(bench.requeue(bench.read(job)))
        assert other.attempt == 2
        for step in itertools.count(1):
            watch.on_step(Step(step, 10**9))
        raise AssertionError

    after = bench.run(job, draw_for_ever)

    assert (after.state, after.attempt) == ("running", 2)
    assert bench.files == []


def test_an_image_that_is_ready_after_the_job_was_lost_is_not_recorded(bench: Bench) -> None:
    job = bench.submit()

    def draw(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        bench.start(bench.requeue(bench.read(job)))
        return [RenderedImage(speckled(64, 64), 0)]

    after = bench.run(job, draw)

    assert (after.state, after.attempt, after.images) == ("running", 2, ())


def test_stored_images_stay_for_the_next_attempt(bench: Bench) -> None:
    job = bench.submit(num_images=2, width=64, height=64)

    class TakenAway(list[RenderedImage]):
        def __iter__(self) -> Iterator[RenderedImage]:
            yield self[0]
            bench.start(bench.requeue(bench.read(job)))
            yield self[1]

    def draw(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        return TakenAway([RenderedImage(speckled(64, 64), 0), RenderedImage(speckled(32, 64), 1)])

    assert bench.run(job, draw).state == "running"
    assert [file.name for file in bench.files] == [f"{job.id}-0.png"]


def test_a_suspended_worker_never_replaces_the_images_of_the_next_one(bench: Bench) -> None:
    job = bench.submit()

    def stopped(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        bench.requeue(bench.read(job))
        bench.run(job, canvas(speckled(64, 64)))
        return [RenderedImage(np.flipud(speckled(64, 64)), 0)]

    after = bench.run(job, stopped)

    assert (after.state, after.attempt) == ("succeeded", 2)
    assert_as_recorded(bench, after)
    assert (bench.pixels(after) == speckled(64, 64)).all()


def test_an_attempt_records_the_images_that_an_earlier_one_stored(bench: Bench) -> None:
    job = bench.lose_worker_before_recording(bench.submit(num_images=2))
    first, second = (bench.folder / image_name(job, index) for index in (0, 1))
    committed = first.read_bytes()
    second.unlink()

    done = bench.run(job, lambda *_: [RenderedImage(speckled(64, 64), 0), RenderedImage(speckled(64, 64), 1)])

    assert (done.state, done.attempt, first.read_bytes()) == ("succeeded", 2, committed)
    assert_as_recorded(bench, done)


def test_a_failed_attempt_deletes_no_image_that_it_has_not_stored(bench: Bench) -> None:
    """A Redis that is restored runs jobs again that had ended after its back-up."""
    job = bench.submit()
    path = bench.folder / image_name(job, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of the first time")

    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise OutOfMemory

    assert bench.run(job, fail).state == "failed"
    assert path.read_bytes() == b"of the first time"


def assert_as_recorded(bench: Bench, job: Job) -> None:
    stored = [(bench.folder / image_name(job, image.index)).read_bytes() for image in job.images]
    assert [(len(data), hashlib.sha256(data).hexdigest()) for data in stored] == [
        (image.bytes, image.sha256) for image in job.images
    ]
    assert len(bench.files) == len(stored)
