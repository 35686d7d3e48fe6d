"""Chooses the pipeline for a request, and its arguments for input images."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image

from shared.jobs.requests import GenerationRequest
from worker.engines.diffusers.denoising.call_arguments import one_or_all
from worker.engines.diffusers.denoising.init_image import InitImage
from worker.engines.diffusers.loading.pipeline_classes import parameters_of
from worker.engines.diffusers.loading.pipelines import Pipelines
from worker.images.values import Pixels

#: With less, a single step would need a schedule of more steps than schedulers have.
MIN_STRENGTH = 0.02


@dataclass(frozen=True, eq=False)
class ImageSpec:
    """What differs between the images of a batch."""

    prompt: str
    negative_prompt: str | None
    seed: int
    add_warning: Callable[[str], None]
    """Adds a warning to the job of this image."""
    init_image: InitImage | None = None
    """What the image starts from, or is repainted within a mask."""
    references: tuple[Pixels, ...] = ()
    """What the model looks at."""


@dataclass(frozen=True, eq=False)
class Mode:
    pipe: Any
    arguments: dict[str, Any]
    """Those that depend on the mode: strength and input images."""
    scheduled_steps: int
    """Steps in the scheduler's plan."""
    executed_steps: int
    """The last ones of these: an init image replaces the result of the steps before."""
    strength: float = 1.0
    blends_masks: bool = False
    """Whether masks are honoured by blending latents after each step."""


def mode_for(pipelines: Pipelines, request: GenerationRequest, specs: Sequence[ImageSpec]) -> Mode:
    """For a batch of images, all with the same kinds of inputs."""
    steps = request.num_inference_steps or 1
    inits = [spec.init_image for spec in specs]
    pipe = choose_pipe(pipelines, inits[0])
    if pipe is pipelines.text:
        return Mode(pipe, _references(pipelines, specs[0]), steps, steps)
    if pipelines.is_inpainting_model and inits[0] is None:
        inits = [InitImage.blank(*request.size)] * len(specs)
        strength = 1.0
    else:
        strength = max(MIN_STRENGTH, request.strength or 1.0)
    repaints = pipe is pipelines.inpaint
    given = _init_images([init for init in inits if init is not None], repaints) | {"strength": strength}
    if "strength" not in parameters_of(pipe):
        return Mode(pipe, given, steps, steps)
    scheduled = _scheduled_steps(steps, strength)
    executed = _executed_steps(pipelines, scheduled, strength)
    has_mask = inits[0] is not None and inits[0].mask is not None
    return Mode(pipe, given, scheduled, executed, strength, has_mask and pipe is pipelines.image)


def choose_pipe(pipelines: Pipelines, init: InitImage | None) -> Any:
    if pipelines.is_inpainting_model:
        return pipelines.inpaint
    if init is None:
        return pipelines.text
    if init.mask is not None and pipelines.inpaint is not None:
        return pipelines.inpaint
    return pipelines.image or pipelines.text


def _references(pipelines: Pipelines, spec: ImageSpec) -> dict[str, Any]:
    images = [PIL.Image.fromarray(pixels) for pixels in spec.references]
    if not images:
        return {}
    return {"image": images if pipelines.family.references > 1 else images[0]}


def _init_images(inits: Sequence[InitImage], repaints: bool) -> dict[str, Any]:
    images = [PIL.Image.fromarray(init.image) for init in inits]
    # They have the size of the result already. The pipeline of FLUX.1 Kontext would choose another.
    arguments: dict[str, Any] = {"image": one_or_all(images), "_auto_resize": False}
    # Modular pipelines take masks always, and repaint if they get one.
    if repaints:
        # Inpainting models require a mask: without one, they repaint everything.
        masks = [np.full(init.image.shape[:2], 255, np.uint8) if init.mask is None else init.mask for init in inits]
        arguments["mask_image"] = one_or_all([PIL.Image.fromarray(mask) for mask in masks])
    return arguments


def _executed_steps(pipelines: Pipelines, steps: int, strength: float) -> int:
    """As diffusers' pipelines round them: those of Stable Diffusion down, the others up."""
    if hasattr(pipelines.text, "unet"):
        return int(steps * strength)
    return steps - int(steps - min(steps * strength, steps))


def _scheduled_steps(steps: int, strength: float) -> int:
    """The requested steps, or as many more as it takes to execute one."""
    if int(steps * strength):
        return steps
    # The product may come out slightly below 1.
    return next(steps for steps in itertools.count(math.ceil(1 / strength)) if int(steps * strength))
