"""What a model likes to be asked for, as far as it says so."""

import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import diffusers
from pydantic import Field, ValidationError

from shared.errors import ConfigurationError
from shared.jobs.types import FrozenModel
from shared.models.capabilities import Capabilities
from worker.engines.diffusers.stable_diffusion.loading import Pipelines
from worker.engines.diffusers.stable_diffusion.schedulers import usable_schedulers
from worker.models.sources import LocalModel

#: A model folder may say how it likes to be used.
FILE = "imagegen.json"
#: Where common schedulers have converged, for models that do not say.
STEPS = 25
#: Of models that were distilled to need few steps: theirs is a range of 1 to 8.
FEW_STEPS = 4
#: What diffusers' LatentConsistencyModelPipeline has for models that take guidance as an input, without a second
#: prediction; those that do not have been trained to do without.
LCM_GUIDANCE, NO_GUIDANCE = 8.5, 0.0
#: How much of an image may change where a request does not say.
STRENGTH = 0.75


class ModelOverrides(FrozenModel):
    """The content of the file."""

    num_inference_steps: Annotated[int | None, Field(ge=1, le=150)] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=50)] = None
    strength: Annotated[float | None, Field(gt=0, le=1)] = None

    @classmethod
    def of(cls, model: LocalModel) -> "ModelOverrides":
        """Raises ConfigurationError."""
        file = model.folder / FILE
        if not file.is_file():
            return cls()
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            reason = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, reason["loc"]))
            raise ConfigurationError(f"The {FILE} of {model.name} is wrong: {place} {reason['msg']}.") from None


@dataclass(frozen=True)
class SamplingDefaults:
    """Steps and guidance that a model was trained for."""

    steps: int
    guidance: float


def sampling_defaults_of(engine: Pipelines) -> SamplingDefaults:
    """Read from the model's parts: what distinguishes distilled models is in their configurations."""
    pipe = engine.text
    if pipe.unet.config.time_cond_proj_dim is not None:
        return SamplingDefaults(FEW_STEPS, LCM_GUIDANCE)
    if isinstance(pipe.scheduler, diffusers.LCMScheduler) or _is_turbo(pipe.scheduler):
        return SamplingDefaults(FEW_STEPS, NO_GUIDANCE)
    # Their own: 7.5, and 5 for Stable Diffusion XL.
    guidance = inspect.signature(type(pipe).__call__).parameters["guidance_scale"].default
    return SamplingDefaults(STEPS, guidance)


def capabilities_of(engine: Pipelines, model: LocalModel, *, loras: tuple[str, ...], safety: str) -> Capabilities:
    """Raises ConfigurationError where the model's own file is wrong."""
    pipe, told, habit = engine.text, ModelOverrides.of(model), sampling_defaults_of(engine)
    width, height = (side * pipe.vae_scale_factor for side in _latent_size(pipe.unet.config.sample_size))
    takes_guidance = pipe.unet.config.time_cond_proj_dim is not None
    return Capabilities(
        model=model.name,
        width=width,
        height=height,
        # What diffusers' Stable Diffusion pipelines accept, and never less than one latent pixel.
        multiple_of=max(8, pipe.vae_scale_factor),
        min_side=64,
        max_side=max(width, height) * 4,
        num_inference_steps=told.num_inference_steps or habit.steps,
        guidance_scale=habit.guidance if told.guidance_scale is None else told.guidance_scale,
        max_steps=_most_steps(pipe.scheduler),
        schedulers=usable_schedulers(pipe.scheduler.config, only_lcm=takes_guidance),
        max_input_images=1,
        inpainting=True,
        strength=told.strength or STRENGTH,
        loras=loras,
        safety=safety,
        ignored=("bfl_model", "negative_prompt") if takes_guidance else ("bfl_model",),
    )


def _is_turbo(scheduler: Any) -> bool:
    """SDXL-Turbo, SD-Turbo and their like: they begin at the last timestep, and predict noise.

    Models that begin there because they were trained from pure noise say so, or predict velocities.
    """
    config = scheduler.config
    from_the_end = config.get("timestep_spacing") == "trailing"
    return (
        from_the_end and config.get("prediction_type") == "epsilon" and not config.get("rescale_betas_zero_snr", False)
    )


def _latent_size(sample_size: int | list[int]) -> tuple[int, int]:
    """Width and height; configurations have either one side or height and width."""
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    return width, height


def _most_steps(scheduler: Any) -> int:
    """LCM schedulers choose from the steps of the model that theirs was distilled from."""
    most: int = scheduler.config.get("original_inference_steps", 150)
    return min(most, 150)
