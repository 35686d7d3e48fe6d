"""Only the masked area of an image is rendered, and put back."""

import numpy as np
import pytest

from shared.jobs.requests import GenerationRequest
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import JobWatch
from worker.engines.null import NullEngine
from worker.images.values import Inputs, Mask, RenderedImage
from worker.jobs.masked_area import Area
from worker.jobs.passes import generate

REFERENCE = f"sha256:{'0' * 64}"


def marked(left: int, top: int, right: int, bottom: int, width: int = 100, height: int = 80) -> Mask:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


@pytest.mark.parametrize(
    ("mask", "padding", "ratio", "area"),
    [
        (marked(40, 30, 60, 50), 0, 1.0, Area(40, 30, 60, 50)),
        (marked(40, 30, 60, 50), 5, 1.0, Area(35, 25, 65, 55)),
        # As wide as the ratio needs, with the mask in the middle.
        (marked(40, 30, 60, 50), 0, 2.0, Area(30, 30, 70, 50)),
        (marked(40, 30, 60, 50), 0, 0.5, Area(40, 20, 60, 60)),
        # Moved where the image ends.
        (marked(0, 0, 10, 10), 0, 2.0, Area(0, 0, 20, 10)),
        (marked(90, 70, 100, 80), 0, 2.0, Area(80, 70, 100, 80)),
        (marked(90, 70, 100, 80), 1000, 1.0, Area(0, 0, 100, 80)),
        # No larger than the image.
        (marked(0, 0, 100, 80), 0, 10.0, Area(0, 0, 100, 80)),
        (marked(5, 5, 6, 6), 0, 1.0, Area(5, 5, 6, 6)),
    ],
)
def test_the_area_has_the_mask_its_padding_and_the_ratio(mask: Mask, padding: int, ratio: float, area: Area) -> None:
    assert Area.around(mask, padding, ratio) == area


class Recorder(NullEngine):
    """Remembers what it gets, and returns white."""

    def generate(self, _: GenerationRequest, inputs: Inputs, __: JobWatch) -> list[RenderedImage]:
        self.inputs = inputs
        return [RenderedImage(np.full((64, 64, 3), value, np.uint8), seed) for value, seed in ((255, 1), (0, 2))]


def test_the_model_sees_the_area_and_the_rest_of_the_image_stays() -> None:
    engine, image, mask = Recorder(), np.full((80, 100, 3), 100, np.uint8), marked(40, 30, 60, 50)
    mask[30:50, 40:50] = 128
    fields = {"image": (REFERENCE,), "mask": REFERENCE, "mask_padding": 5, "width": 64, "height": 64}
    request, _ = engine.capabilities.resolve(GenerationRequest(prompt="x", seed=1, **fields), (100, 80))

    white, black = generate(engine, request, Inputs([image], mask), RecordingWatch())

    assert engine.inputs.images[0].shape == (30, 30, 3)
    assert engine.inputs.mask is not None
    assert engine.inputs.mask.shape == (30, 30)
    assert (white.seed, black.seed) == (1, 2)
    assert (white.pixels[30:50, 50:60] == 255).all()
    assert (white.pixels[30:50, 40:50] == 178).all()
    assert (black.pixels[30:50, 50:60] == 0).all()
    white.pixels[30:50, 40:60] = 100
    assert (white.pixels == 100).all()


def test_a_padding_needs_a_mask() -> None:
    with pytest.raises(ValueError, match="needs a mask"):
        GenerationRequest(prompt="x", image=(REFERENCE,), mask_padding=5)
