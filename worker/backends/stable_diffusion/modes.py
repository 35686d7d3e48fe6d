"""Which pipeline makes a picture, and what it is given to begin with."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from shared.schemas import GenerationRequest
from worker.backends.base import Mask
from worker.backends.stable_diffusion.canvas import Canvas
from worker.backends.stable_diffusion.loading import Engine

#: With less, even the last step alone would be one of more steps than schedulers have.
LEAST_STRENGTH = 0.02


@dataclass(frozen=True, eq=False)
class Mode:
    pipe: Any
    arguments: dict[str, Any]
    """Besides those that every picture needs."""
    steps: int
    """That the scheduler plans."""
    runs: int
    """Of these, the last ones that are done: a picture to begin with stands for those before."""
    strength: float = 1.0
    mask: Mask | None = None
    """Beyond which everything has to be kept, where the pipeline does not see to it."""


def mode_of(engine: Engine, request: GenerationRequest, canvas: Canvas | None) -> Mode:
    size = {"width": request.width, "height": request.height}
    wanted = request.num_inference_steps or 1
    if canvas is None and engine.inpaint is None:
        return Mode(engine.text, size, wanted, wanted)
    strength = max(LEAST_STRENGTH, request.strength or 1.0) if canvas else 1.0
    steps = _planned(wanted, strength)
    runs = int(steps * strength)
    canvas = canvas or Canvas.blank(request.width or 0, request.height or 0)
    arguments = {"image": PIL.Image.fromarray(canvas.image), "strength": strength}
    if engine.inpaint is None:
        return Mode(engine.image, arguments, steps, runs, strength, canvas.mask)
    # A model that always wants a mask paints over everything where there is none.
    mask = np.full(canvas.image.shape[:2], 255, np.uint8) if canvas.mask is None else canvas.mask
    arguments |= {**size, "mask_image": PIL.Image.fromarray(mask)}
    return Mode(engine.inpaint, arguments, steps, runs, strength)


def _planned(wanted: int, strength: float) -> int:
    """As many steps as are asked for, or so many more that there is one to be done."""
    if int(wanted * strength):
        return wanted
    # The product may come out a little below 1.
    return next(steps for steps in itertools.count(math.ceil(1 / strength)) if int(steps * strength))
