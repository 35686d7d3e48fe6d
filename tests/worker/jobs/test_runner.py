"""The outcome of one job: its record, files, warnings and errors."""

import errno
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from shared.errors import InternalError, OutOfMemory
from shared.jobs.requests import GenerationRequest
from tests.support.polling import waits_for
from tests.worker.bench import Bench, canvas, speckled
from worker.engines.base import JobWatch, Step
from worker.images.png import PngEncoder
from worker.images.values import RenderedImage
from worker.jobs.finishers import BackgroundFinisher


def test_a_queued_job_succeeds(bench: Bench) -> None:
    job = bench.run(bench.submit())

    assert (job.state, job.attempt, job.model) == ("succeeded", 1, "null")
    assert [path.name for path in bench.files] == [f"{job.id}-0.png"]


def test_the_record_has_the_size_of_the_file(bench: Bench) -> None:
    job = bench.run(bench.submit())

    assert [image.bytes for image in job.images] == [path.stat().st_size for path in bench.files]


def test_a_field_that_the_engine_ignores_leaves_a_warning(bench: Bench) -> None:
    job = bench.run(bench.submit(negative_prompt="y"))

    assert job.warnings == ("negative_prompt is ignored: null does not support it",)


def test_a_warning_of_the_engine_is_on_the_job_once(bench: Bench) -> None:
    def draw(_: GenerationRequest, watch: JobWatch) -> Sequence[RenderedImage]:
        watch.add_warning("the prompt was cut")
        watch.add_warning("the prompt was cut")
        return [RenderedImage(speckled(64, 64), 0)]

    job = bench.run(bench.submit(negative_prompt="y"), draw)

    assert job.warnings == ("negative_prompt is ignored: null does not support it", "the prompt was cut")


def test_a_failed_job_has_the_warnings_of_the_engine(bench: Bench) -> None:
    def fail(_: GenerationRequest, watch: JobWatch) -> Sequence[RenderedImage]:
        watch.add_warning("memory was short")
        raise OutOfMemory

    assert bench.run(bench.submit(), fail).warnings == ("memory was short",)


def test_a_flagged_image_is_recorded_and_has_no_file(bench: Bench) -> None:
    job = bench.run(bench.submit(num_images=2, metadata={"simulate": {"flag": 1}}))

    assert [(image.flagged, image.bytes is None, image.sha256 is None) for image in job.images] == [
        (True, True, True),
        (False, False, False),
    ]
    assert [path.name for path in bench.files] == [f"{job.id}-1.png"]
    assert job.warnings == ("the safety checker rejected 1 of 2 images",)


def test_a_job_fails_if_every_image_is_flagged(bench: Bench) -> None:
    job = bench.run(bench.submit(num_images=2, metadata={"simulate": {"flag": 2}}))

    assert job.error is not None
    assert (job.state, job.error.code) == ("failed", "content-rejected")
    assert bench.files == []


@pytest.mark.parametrize("shade", [0, 255])
def test_an_image_of_one_colour_is_invalid(bench: Bench, shade: int) -> None:
    job = bench.run(bench.submit(), canvas(np.full((64, 64, 3), shade, np.uint8)))

    assert job.error is not None
    assert job.error.code == "invalid-output"
    assert bench.files == []


def test_what_was_erased_from_a_plain_canvas_is_valid(bench: Bench) -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    file = PngEncoder().encode(white)

    job = bench.run(bench.submit([file], mask=file), canvas(white))

    assert job.state == "succeeded"
    assert np.array_equal(bench.pixels(job), white)


def test_an_image_of_the_wrong_size_is_invalid(bench: Bench) -> None:
    job = bench.run(bench.submit(width=64, height=64), canvas(speckled(32, 64)))

    assert job.error is not None
    assert (job.error.code, job.error.detail) == ("invalid-output", "The model returned an image of 32x64 pixels.")


def test_an_expected_failure_keeps_its_detail(bench: Bench) -> None:
    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise OutOfMemory("Too large.")

    job = bench.run(bench.submit(), fail)

    assert job.error is not None
    assert (job.state, job.error.code, job.error.detail) == ("failed", "out-of-memory", "Too large.")


def test_an_unexpected_failure_reveals_no_internals(bench: Bench) -> None:
    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise RuntimeError("secret path")

    job = bench.run(bench.submit(), fail)

    assert job.error is not None
    assert (job.error.code, job.error.detail) == ("internal-error", InternalError().detail)


def test_an_unexpected_failure_is_logged_with_the_id_of_the_job(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        raise RuntimeError("secret path")

    job = bench.run(bench.submit(), fail)

    assert f"job {job.id} failed unexpectedly" in caplog.text
    assert "secret path" in caplog.text


def test_a_job_that_starts_after_its_deadline_fails(bench: Bench) -> None:
    bench.now = lambda: datetime.now(UTC) + timedelta(seconds=6)

    job = bench.run(bench.submit(deadline_seconds=5))

    assert job.error is not None
    assert (job.state, job.error.code, job.attempt) == ("failed", "deadline-passed", 0)


def test_a_job_that_starts_before_its_deadline_succeeds(bench: Bench) -> None:
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


def test_a_full_disk_keeps_no_partial_image(bench: Bench, full_disk: None) -> None:
    bench.run(bench.submit())

    assert bench.files == []


def test_a_job_that_fails_at_its_second_image_keeps_none(bench: Bench) -> None:
    def draw(_: GenerationRequest, __: JobWatch) -> Sequence[RenderedImage]:
        return [RenderedImage(speckled(64, 64), 0), RenderedImage(speckled(32, 64), 1)]

    job = bench.run(bench.submit(num_images=2, width=64, height=64), draw)

    assert job.state == "failed"
    assert bench.files == []


def test_a_surplus_wake_up_does_not_change_an_ended_job(bench: Bench) -> None:
    done = bench.run(bench.submit())

    assert bench.run(done) == done


def test_a_job_that_another_worker_runs_is_left_alone(bench: Bench) -> None:
    running = bench.start(bench.submit())

    assert bench.run(running) == running


def test_a_lost_record_does_not_block_the_queue(bench: Bench) -> None:
    lost, next_one = bench.submit(), bench.submit()
    bench.store.client.delete(f"{bench.prefix}job:{lost.id}")

    assert bench.run(next_one).state == "succeeded"
    assert not bench.store.client.exists(f"{bench.prefix}queue:null")


def test_a_job_that_is_cancelled_while_it_renders_ends_cancelled(bench: Bench) -> None:
    job = bench.submit()

    def draw_for_ever(_: GenerationRequest, watch: JobWatch) -> Sequence[RenderedImage]:
        bench.store.run(bench.jobs.request_cancel(job.id))
        for step in itertools.count(1):
            watch.on_step(Step(step, 10**9))
        raise AssertionError

    assert bench.run(job, draw_for_ever).state == "cancelled"
    assert bench.files == []


def waiting_for(event: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        event.wait()

    return wait


def test_rendering_is_at_most_one_job_ahead() -> None:
    finisher, stored = BackgroundFinisher(), threading.Event()
    finisher.run(waiting_for(stored), lambda: None)

    assert waits_for(stored, lambda: finisher.run(lambda: None, lambda: None))


def test_the_channels_of_a_job_that_cannot_be_finished_are_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise its lease would be renewed for ever, and no worker would get it."""
    finisher, closed = BackgroundFinisher(), threading.Event()

    def fail() -> None:
        raise RuntimeError

    finisher.run(fail, closed.set)
    finisher.drain()

    assert closed.is_set()
    assert "a job could not be finished" in caplog.text


def test_a_worker_that_ends_finishes_its_job_first() -> None:
    finisher, stored, ended = BackgroundFinisher(), threading.Event(), threading.Event()
    finisher.run(waiting_for(stored), ended.set)

    assert waits_for(stored, finisher.drain)
    assert ended.is_set()
