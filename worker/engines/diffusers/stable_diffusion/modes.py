"""Chooses the pipeline for a request, and its arguments for input images."""

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

#: With less, a single step would need a schedule of more steps than schedulers have.
MIN_STRENGTH = 0.02


@dataclass(frozen=True, eq=False)
class Mode:
    pipe: Any
    arguments: dict[str, Any]
    """Arguments that depend on the mode, except those for init images."""
    scheduled_steps: int
    """Steps in the scheduler's plan."""
    executed_steps: int
    """The last ones of these: an init image replaces the result of the steps before."""
    strength: float = 1.0


def mode_for(pipelines: Pipelines, request: GenerationRequest, *, has_init_image: bool) -> Mode:
    size = {"width": request.width, "height": request.height}
    steps = request.num_inference_steps or 1
    if not has_init_image and pipelines.inpaint is None:
        return Mode(pipelines.text, size, steps, steps)
    strength = max(MIN_STRENGTH, request.strength or 1.0) if has_init_image else 1.0
    scheduled = _scheduled_steps(steps, strength)
    executed = int(scheduled * strength)
    if pipelines.inpaint is None:
        return Mode(pipelines.image, {"strength": strength}, scheduled, executed, strength)
    return Mode(pipelines.inpaint, {**size, "strength": strength}, scheduled, executed, strength)


def init_image_arguments(
    pipelines: Pipelines, request: GenerationRequest, init_images: Sequence[InitImage | None]
) -> dict[str, Any]:
    """For a batch of images, all with an init image or all without."""
    if init_images[0] is None and pipelines.inpaint is None:
        return {}
    inits = [init or InitImage.blank(request.width or 0, request.height or 0) for init in init_images]
    arguments = {"image": [PIL.Image.fromarray(init.image) for init in inits]}
    if pipelines.inpaint is not None:
        arguments["mask_image"] = [PIL.Image.fromarray(_mask_or_all(init)) for init in inits]
    return arguments


def _mask_or_all(init: InitImage) -> Mask:
    """Inpainting models require a mask: without one, they repaint everything."""
    return np.full(init.image.shape[:2], 255, np.uint8) if init.mask is None else init.mask


def _scheduled_steps(steps: int, strength: float) -> int:
    """The requested steps, or as many more as it takes to execute one."""
    if int(steps * strength):
        return steps
    # The product may come out slightly below 1.
    return next(steps for steps in itertools.count(math.ceil(1 / strength)) if int(steps * strength))
