"""Jobs with a second pass, and jobs that only resize."""

from typing import NoReturn

import numpy as np
import pytest

from shared.jobs.requests import GenerationRequest
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Step
from worker.engines.null import NullEngine
from worker.images.values import DecodedImage, Inputs
from worker.jobs.passes import generate

REFERENCE = f"sha256:{'0' * 64}"


def resolved(**fields: object) -> GenerationRequest:
    request, _ = NullEngine.capabilities.resolve(GenerationRequest(prompt="x", seed=5, **fields))
    return request


def test_a_second_pass_begins_from_the_enlarged_image() -> None:
    engine = NullEngine()
    plain = engine.generate(resolved(num_images=2), Inputs(), RecordingWatch())

    again = generate(
        engine, resolved(num_images=2, second_pass={"scale": 2, "strength": 0.001}), Inputs(), RecordingWatch()
    )

    assert [image.seed for image in again] == [5, 6]
    for first, second in zip(plain, again, strict=True):
        assert second.pixels.shape == (128, 128, 3)
        assert np.abs(second.pixels[::2, ::2].astype(int) - first.pixels).mean() < 20
    assert (again[0].pixels != again[1].pixels).any()


def test_progress_grows_over_all_passes() -> None:
    steps: list[Step] = []

    generate(
        NullEngine(),
        resolved(num_images=2, second_pass={"num_inference_steps": 9}),
        Inputs(),
        RecordingWatch(steps.append),
    )

    counted = [step.step for step in steps]
    assert counted == sorted(counted)
    assert (counted[0], counted[-1], {step.steps for step in steps}) == (1, 12, {12})
    previews = [step.render_preview(1) for step in steps if step.render_preview]
    assert previews[-1] is not None


def test_withheld_images_stay_withheld() -> None:
    request = resolved(second_pass={}, metadata={"simulate": {"flag": 1}})

    (image,) = generate(NullEngine(), request, Inputs(), RecordingWatch())

    assert image.flagged
    assert image.pixels.shape == (128, 128, 3)


class Unavailable(NullEngine):
    def generate(self, *_: object, **__: object) -> NoReturn:
        raise AssertionError("no engine is needed")


@pytest.mark.parametrize("size", [(32, 16), (8, 8)])
def test_resizing_needs_no_engine(size: tuple[int, int]) -> None:
    image = np.full((8, 8, 3), 7, np.uint8)
    width, height = max(16, size[0]), max(16, size[1])
    request = resolved(image=(REFERENCE,), resize_only=True, output_width=width, output_height=height)

    (resized,) = generate(Unavailable(), request, Inputs([DecodedImage(image)]), RecordingWatch())

    assert resized.pixels.shape == (height, width, 3)
    assert (resized.pixels == 7).all()
