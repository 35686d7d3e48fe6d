"""How tests have a model draw without a worker around it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from shared.jobs.requests import GenerationRequest
from tests.worker.images.looking import Pixels
from tests.worker.recording_watch import RecordingWatch
from worker.engines.base import Engine, Step
from worker.images.values import Inputs, RenderedImage

#: What stands in a request for an image that came with it.
REFERENCE = "sha256:" + "0" * 64
NOTHING = Inputs()


@dataclass
class Drawn:
    images: list[RenderedImage]
    steps: list[Step]
    watch: RecordingWatch = field(repr=False)

    @property
    def pixels(self) -> Pixels:
        """Of the only image."""
        (image,) = self.images
        return image.pixels

    @property
    def counted(self) -> list[tuple[int, int]]:
        return [(step.step, step.steps) for step in self.steps]


def draw(
    model: Engine,
    inputs: Inputs = NOTHING,
    watch: RecordingWatch | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    **fields: object,
) -> Drawn:
    """What the model makes of a request, two steps long unless told otherwise."""
    watch, steps = watch or RecordingWatch(), list[Step]()

    def count(step: Step) -> None:
        steps.append(step)
        on_step(step)

    watch.on_step = count
    given = {"image": (REFERENCE,) if inputs.images else (), "mask": None if inputs.mask is None else REFERENCE}
    asked = {"prompt": "a cat", "seed": 1, "num_inference_steps": 2, **given, **fields}
    size = inputs.images[0].shape[1::-1] if inputs.images else None
    request, _ = model.capabilities.resolve(GenerationRequest.model_validate(asked), size)
    return Drawn(list(model.generate(request, inputs, watch)), steps, watch)


def speckled(width: int = 64, height: int = 64) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def right_half(width: int = 64, height: int = 64) -> Pixels:
    """A mask."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask
