"""The progress and previews of a running job, and its cancellation."""

import base64
from typing import Any

import pytest

from tests.conftest import RED_HEART
from tests.stack import Event, Stack
from tests.worker.images.image_checks import opened
from tests.worker.new_jobs import run_job, simulated, start_job, submit_job

SLOW: dict[str, Any] = {**RED_HEART, "num_inference_steps": 150, "width": 256, "height": 256}


@pytest.fixture(scope="module")
def previews(sd: Stack) -> list[Event]:
    """The first two previews of a slow job, which is then cancelled."""
    job_id = start_job(sd, **SLOW)
    with sd.api.events(job_id) as events:
        stream = (event for event in events if event.type == "preview")
        found = [next(stream), next(stream)]
    sd.api.delete(f"/api/jobs/{job_id}")
    sd.api.wait_until_done(job_id)
    return found


def test_a_slow_job_has_small_previews(previews: list[Event]) -> None:
    files = [base64.b64decode(event.data["b64_json"]) for event in previews]

    assert {opened(file).format for file in files} == {"JPEG"}
    assert max(max(opened(file).size) for file in files) <= 256
    assert max(len(file) for file in files) < 40_000


def test_previews_are_a_second_apart(previews: list[Event]) -> None:
    first, second = previews

    assert 0 < first.data["step"] < second.data["step"]


def test_a_short_job_has_no_previews(null: Stack) -> None:
    job_id = submit_job(null, **simulated(seconds=0.3))

    assert {event.type for event in null.api.all_events(job_id)} == {"state", "progress", "done"}


def test_requested_previews_are_sent_at_once_and_spread_over_the_steps(null: Stack) -> None:
    job_id = submit_job(null, **simulated(seconds=3) | {"previews": 4})

    steps = [event.data["step"] for event in null.api.all_events(job_id) if event.type == "preview"]
    # The first one may come before somebody listens.
    assert steps[-3:] == [26, 51, 76]


def test_no_previews_can_be_requested(null: Stack) -> None:
    job_id = submit_job(null, **simulated(seconds=1.3) | {"previews": 0})

    assert {event.type for event in null.api.all_events(job_id)} == {"state", "progress", "done"}


def test_progress_only_goes_forward(sd: Stack) -> None:
    # Heun's scheduler runs the model nearly twice a step.
    job_id = submit_job(sd, **RED_HEART, scheduler="heun", num_inference_steps=20, width=64, height=64)

    fractions = [event.data["fraction"] for event in sd.api.all_events(job_id) if event.type == "progress"]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] <= 1


def test_progress_is_reported_at_most_four_times_a_second(null: Stack) -> None:
    job_id = submit_job(null, **simulated(seconds=1))

    *events, done = null.api.all_events(job_id)
    progress = [event for event in events if event.type == "progress"]
    # A hundred steps; the last may follow the one before it at once.
    assert 2 <= len(progress) <= 1 + 4 * done.data["timings"]["generate_ms"] / 1000


def test_a_running_job_can_be_cancelled_and_leaves_no_file(sd: Stack) -> None:
    job_id = start_job(sd, **SLOW)

    sd.api.delete(f"/api/jobs/{job_id}")

    *events, done = sd.api.all_events(job_id)
    assert done.data["state"] == "cancelled"
    assert max(event.data["step"] for event in events if event.type == "progress") < SLOW["num_inference_steps"]
    assert sd.find(f"*{job_id}*") == []
    assert run_job(sd, **RED_HEART, num_inference_steps=2)["state"] == "succeeded"


def test_a_cancelled_job_ends_at_its_next_step(null: Stack) -> None:
    job_id = start_job(null, **simulated(seconds=30))

    null.api.delete(f"/api/jobs/{job_id}")

    # A step takes 0.3 s here; the rest is for a busy machine.
    assert null.api.wait_until_done(job_id)["timings"]["total_ms"] < 15_000
