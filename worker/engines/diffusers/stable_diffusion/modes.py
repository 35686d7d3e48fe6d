"""Which pipeline makes an image, and what it is given to begin with."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from shared.jobs.requests import GenerationRequest
from worker.engines.diffusers.stable_diffusion.init_image import InitImage
from worker.engines.diffusers.stable_diffusion.loading import Pipelines
from worker.images.values import Mask

#: With less, even the last step alone would be one of more steps than schedulers have.
LEAST_STRENGTH = 0.02


@dataclass(frozen=True, eq=False)
class Mode:
    pipe: Any
    arguments: dict[str, Any]
    """Besides those that every image needs, and those of what it begins with."""
    steps: int
    """That the scheduler plans."""
    runs: int
    """Of these, the last ones that are done: an image to begin with stands for those before."""
    strength: float = 1.0


def mode_of(engine: Pipelines, request: GenerationRequest, *, begun: bool) -> Mode:
    """`begun` tells whether there is something to begin with."""
    size = {"width": request.width, "height": request.height}
    wanted = request.num_inference_steps or 1
    if not begun and engine.inpaint is None:
        return Mode(engine.text, size, wanted, wanted)
    strength = max(LEAST_STRENGTH, request.strength or 1.0) if begun else 1.0
    steps = _planned(wanted, strength)
    runs = int(steps * strength)
    if engine.inpaint is None:
        return Mode(engine.image, {"strength": strength}, steps, runs, strength)
    return Mode(engine.inpaint, {**size, "strength": strength}, steps, runs, strength)


def beginning(engine: Pipelines, request: GenerationRequest, canvases: Sequence[InitImage | None]) -> dict[str, Any]:
    """What the pipeline is given of the canvases, of one mode, for as many images."""
    if canvases[0] is None and engine.inpaint is None:
        return {}
    begun = [canvas or InitImage.blank(request.width or 0, request.height or 0) for canvas in canvases]
    given = {"image": [PIL.Image.fromarray(canvas.image) for canvas in begun]}
    if engine.inpaint is not None:
        given["mask_image"] = [PIL.Image.fromarray(_whole_mask(canvas)) for canvas in begun]
    return given


def _whole_mask(canvas: InitImage) -> Mask:
    """A model that always wants a mask paints over everything where there is none."""
    return np.full(canvas.image.shape[:2], 255, np.uint8) if canvas.mask is None else canvas.mask


def _planned(wanted: int, strength: float) -> int:
    """As many steps as are asked for, or so many more that there is one to be done."""
    if int(wanted * strength):
        return wanted
    # The product may come out a little below 1.
    return next(steps for steps in itertools.count(math.ceil(1 / strength)) if int(steps * strength))
