"""The life of one job in a worker."""

import errno
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from shared.errors import InternalError, OutOfMemory
from shared.jobs.job import Job
from shared.jobs.requests import GenerationRequest
from shared.storage.images import image_name
from tests.worker.bench import Bench, canvas, speckled
from worker.engines.base import JobWatch, Step
from worker.images.values import RenderedImage

_numbers = itertools.count()


@pytest.fixture
def bench(redis_url: str, tmp_path: Path) -> Bench:
    return Bench(redis_url, f"bench{next(_numbers)}:", tmp_path / "outputs")


def test_a_job_in_line_is_done(bench: Bench) -> None:
    job = bench.run(bench.submit())

    assert (job.state, job.attempt, job.model) == ("succeeded", 1, "null")
    assert [path.name for path in bench.files] == [f"{job.id}-0.png"]


def test_the_record_tells_the_size_of_the_file(bench: Bench) -> None:
    job = bench.run(bench.submit())

    assert [image.bytes for image in job.images] == [path.stat().st_size for path in bench.files]


def test_a_field_that_the_backend_cannot_honour_leaves_a_warning(bench: Bench) -> None:
    job = bench.run(bench.submit(negative_prompt="y"))

    assert job.warnings == ("negative_prompt is ignored: null cannot honour it",)


def test_what_a_backend_has_to_say_is_on_the_job_once(bench: Bench) -> None:
    def draw(_: GenerationRequest, watch: JobWatch) -> Sequence[RenderedImage]:
        watch.add_warning("the prompt was cut")
        watch.add_warning("the prompt was cut")
        return [RenderedImage(speckled(64, 64), 0)]

    job = bench.run(bench.submit(negative_prompt="y"), draw)

    assert job.warnings == ("negative_prompt is ignored: null cannot honour it", "the prompt was cut")


def test_what_a_backend_has_to_say_is_on_a_job_that_failed_too(bench: Bench) -> None:
    def fail(_: GenerationRequest, watch: JobWatch) -> Sequence[RenderedImage]:
        watch.add_warning("memory was short")
        raise OutOfMemory

    assert bench.run(bench.submit(), fail).warnings == ("memory was short",)


def test_what_was_said_before_the_worker_died_is_not_lost(bench: Bench) -> None:
    queued = bench.lose_worker_before_recording(bench.submit(num_images=2, metadata={"simulate": {"flag": 1}}))

    assert bench.run(queued).warnings == ("the safety checker rejected 1 of 2 images",)


def test_a_flagged_image_is_told_of_and_has_no_file(bench: Bench) -> None:
    job = bench.run(bench.submit(num_images=2, metadata={"simulate": {"flag": 1}}))

    assert [(image.flagged, image.bytes is None, image.sha256 is None) for image in job.images] == [
        (True, True, True),
        (False, False, False),
    ]
    assert [path.name for path in bench.files] == [f"{job.id}-1.png"]
    assert job.warnings == ("the safety checker rejected 1 of 2 images",)


def test_a_job_of_which_every_image_is_flagged_fails(bench: Bench) -> None:
    job = bench.run(bench.submit(num_images=2, metadata={"simulate": {"flag": 2}}))

    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "content-rejected")
    assert bench.files == []


@pytest.mark.parametrize("shade", [0, 255])
def test_a_image_of_one_colour_is_no_image(bench: Bench, shade: int) -> None:
    job = bench.run(bench.submit(), canvas(np.full((64, 64, 3), shade, np.uint8)))

    assert job.error is not None
    assert job.error.code == "invalid-output"
    assert bench.files == []


def test_a_image_of_the_wrong_size_is_no_image(bench: Bench) -> None:
    job = bench.run(bench.submit(width=64, height=64), canvas(speckled(32, 64)))

    assert job.error is not None
    assert (job.error.code, job.error.detail) == ("invalid-output", "The model returned an image of 32x64 pixels.")


def test_a_foreseen_failure_is_told_with_its_own_words(bench: Bench) -> None:
    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise OutOfMemory("Too large.")

    job = bench.run(bench.submit(), fail)

    assert job.error is not None
    assert (job.state, job.error.code, job.error.detail) == ("failed", "out-of-memory", "Too large.")


def test_an_unforeseen_failure_tells_no_internals(bench: Bench) -> None:
    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise RuntimeError("secret path")

    job = bench.run(bench.submit(), fail)

    assert job.error is not None
    assert (job.error.code, job.error.detail) == ("internal-error", InternalError().detail)


def test_an_unforeseen_failure_is_in_the_log_under_the_jobs_id(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise RuntimeError("secret path")

    job = bench.run(bench.submit(), fail)

    assert f"job {job.id} failed unexpectedly" in caplog.text
    assert "secret path" in caplog.text


def test_a_job_that_begins_after_its_deadline_fails(bench: Bench) -> None:
    bench.now = lambda: datetime.now(UTC) + timedelta(seconds=6)

    job = bench.run(bench.submit(deadline_seconds=5))

    assert job.error is not None
    assert (job.state, job.error.code, job.attempt) == ("failed", "deadline-passed", 0)


def test_a_job_that_begins_before_its_deadline_is_done(bench: Bench) -> None:
    bench.now = lambda: datetime.now(UTC) + timedelta(seconds=4)

    assert bench.run(bench.submit(deadline_seconds=5)).state == "succeeded"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_full_disk_fails_the_job(bench: Bench, full_disk: None) -> None:
    job = bench.run(bench.submit())

    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("storage-full", True)


def test_a_full_disk_is_left_without_half_a_image(bench: Bench, full_disk: None) -> None:
    bench.run(bench.submit())

    assert bench.files == []


def test_a_job_that_fails_at_its_second_image_leaves_none(bench: Bench) -> None:
    def draw(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        return [RenderedImage(speckled(64, 64), 0), RenderedImage(speckled(32, 64), 1)]

    job = bench.run(bench.submit(num_images=2, width=64, height=64), draw)

    assert job.state == "failed"
    assert bench.files == []


def test_a_wake_up_too_many_does_nothing_to_a_job_that_has_ended(bench: Bench) -> None:
    done = bench.run(bench.submit())

    assert bench.run(done) == done


def test_a_job_that_another_worker_runs_is_left_alone(bench: Bench) -> None:
    running = bench.start(bench.submit())

    assert bench.run(running) == running


def test_a_record_that_was_lost_does_not_stand_in_the_way(bench: Bench) -> None:
    lost, next_one = bench.submit(), bench.submit()
    bench.store.client.delete(f"{bench.prefix}job:{lost.id}")

    assert bench.run(next_one).state == "succeeded"


def test_images_that_were_finished_before_the_worker_died_are_recorded_not_made_again(bench: Bench) -> None:
    def never(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise AssertionError

    queued = bench.lose_worker_before_recording(bench.submit())

    done = bench.run(queued, never)

    assert (done.state, done.attempt) == ("succeeded", 2)
    assert [file.name for file in bench.files] == [f"{done.id}-0.png"]


def test_a_damaged_image_of_a_worker_that_died_is_made_again(bench: Bench) -> None:
    queued = bench.lose_worker_before_recording(bench.submit())
    image = next(file for file in bench.files if file.suffix == ".png")
    image.write_bytes(image.read_bytes()[:-1])

    done = bench.run(queued)

    assert done.state == "succeeded"
    assert image.stat().st_size == done.images[0].bytes


def test_a_image_of_a_job_that_was_taken_away_is_dropped(bench: Bench) -> None:
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


def test_a_image_that_comes_after_the_job_was_taken_away_is_not_recorded(bench: Bench) -> None:
    job = bench.submit()

    def draw(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        bench.start(bench.requeue(bench.read(job)))
        return [RenderedImage(speckled(64, 64), 0)]

    after = bench.run(job, draw)

    assert (after.state, after.attempt, after.images) == ("running", 2, ())


def test_what_a_job_has_saved_stays_where_another_attempt_may_have_it(bench: Bench) -> None:
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


def test_a_job_that_is_cancelled_while_it_is_drawn_ends_cancelled(bench: Bench) -> None:
    job = bench.submit()

    def draw_for_ever(_: GenerationRequest, watch: JobWatch) -> Sequence[RenderedImage]:
        bench.store.run(bench.jobs.request_cancel(job.id))
        for step in itertools.count(1):
            watch.on_step(Step(step, 10**9))
        raise AssertionError

    assert bench.run(job, draw_for_ever).state == "cancelled"
    assert bench.files == []


def test_a_worker_that_wakes_too_late_never_replaces_what_the_next_one_committed(bench: Bench) -> None:
    job = bench.submit()

    def stopped(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        bench.requeue(bench.read(job))
        bench.run(job, canvas(speckled(64, 64)))
        return [RenderedImage(np.flipud(speckled(64, 64)), 0)]

    after = bench.run(job, stopped)

    assert (after.state, after.attempt) == ("succeeded", 2)
    assert_as_recorded(bench, after)
    assert (bench.pixels(after) == speckled(64, 64)).all()


def test_a_job_records_what_an_attempt_before_it_committed_of_its_images(bench: Bench) -> None:
    job = bench.lose_worker_before_recording(bench.submit(num_images=2))
    first, second = (bench.folder / image_name(job, index) for index in (0, 1))
    committed = first.read_bytes()
    second.unlink()

    done = bench.run(job, lambda *_: [RenderedImage(speckled(64, 64), 0), RenderedImage(speckled(64, 64), 1)])

    assert (done.state, done.attempt, first.read_bytes()) == ("succeeded", 2, committed)
    assert_as_recorded(bench, done)


def test_a_job_that_fails_takes_no_image_along_that_it_has_not_made(bench: Bench) -> None:
    """A Redis that is restored runs jobs again that had ended after its back-up."""
    job = bench.submit()
    path = bench.folder / image_name(job, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of the first time")

    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise OutOfMemory

    assert bench.run(job, fail).state == "failed"
    assert path.read_bytes() == b"of the first time"


def test_a_damaged_image_of_an_attempt_before_is_made_anew(bench: Bench) -> None:
    job = bench.lose_worker_before_recording(bench.submit())
    path = bench.folder / image_name(job, 0)
    path.write_bytes(path.read_bytes()[:-20])

    done = bench.run(job)

    assert done.state == "succeeded"
    assert_as_recorded(bench, done)


def assert_as_recorded(bench: Bench, job: Job) -> None:
    held = [(bench.folder / image_name(job, image.index)).read_bytes() for image in job.images]
    assert [(len(data), hashlib.sha256(data).hexdigest()) for data in held] == [
        (image.bytes, image.sha256) for image in job.images
    ]
    assert len(bench.files) == len(held)
