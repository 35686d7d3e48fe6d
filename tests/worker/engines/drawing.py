"""Renders with an engine without a worker."""

from dataclasses import dataclass, field

import numpy as np

from shared.jobs.requests import GenerationRequest
from tests.worker.images.image_checks import Pixels
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Engine, Step
from worker.images.values import Inputs, RenderedImage

#: Stands for an input image in a request.
REFERENCE = "sha256:" + "0" * 64
NOTHING = Inputs()


@dataclass
class Drawn:
    images: list[RenderedImage]
    steps: list[Step]
    watch: RecordingWatch = field(repr=False)

    @property
    def pixels(self) -> Pixels:
        """The pixels of the only image."""
        (image,) = self.images
        return image.pixels

    @property
    def counted(self) -> list[tuple[int, int]]:
        return [(step.step, step.steps) for step in self.steps]


def draw(
    model: Engine,
    inputs: Inputs = NOTHING,
    watch: RecordingWatch | None = None,
    /,
    **fields: object,
) -> Drawn:
    """Render a request, with two steps by default."""
    watch, steps = watch or RecordingWatch(), list[Step]()
    on_step = watch.on_step

    def count(step: Step) -> None:
        steps.append(step)
        on_step(step)

    watch.on_step = count
    given = {"image": (REFERENCE,) if inputs.images else (), "mask": None if inputs.mask is None else REFERENCE}
    body = {"prompt": "a cat", "seed": 1, "num_inference_steps": 2, **given, **fields}
    size = inputs.images[0].shape[1::-1] if inputs.images else None
    request, _ = model.capabilities.resolve(GenerationRequest.model_validate(body), size)
    return Drawn(list(model.generate(request, inputs, watch)), steps, watch)


def preview_of(step: Step, index: int = 0) -> Pixels:
    """The preview of an image, which the step must have."""
    preview = step.render_preview and step.render_preview(index)
    assert preview is not None
    return preview


def speckled(width: int = 64, height: int = 64) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def right_half(width: int = 64, height: int = 64) -> Pixels:
    """A mask that repaints the right half."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask
