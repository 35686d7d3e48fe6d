"""Reads defaults (size, steps, guidance) and capabilities from the model's configuration."""

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
from worker.models.local_model import LocalModel

#: An optional file in the model folder that overrides the defaults.
OVERRIDES_FILE = "imagegen.json"
#: By this step, common schedulers have converged.
STEPS = 25
#: For models that were distilled for 1 to 8 steps.
FEW_STEPS = 4
#: The default of diffusers' LatentConsistencyModelPipeline for models that take guidance as an input, without a second
#: prediction. Other distilled models were trained without guidance.
LCM_GUIDANCE, NO_GUIDANCE = 8.5, 0.0
#: How much of an input image may change by default.
STRENGTH = 0.75


class ModelOverrides(FrozenModel):
    num_inference_steps: Annotated[int | None, Field(ge=1, le=150)] = None
    guidance_scale: Annotated[float | None, Field(ge=0, le=50)] = None
    strength: Annotated[float | None, Field(gt=0, le=1)] = None

    @classmethod
    def read(cls, model: LocalModel) -> "ModelOverrides":
        """Raises ConfigurationError."""
        file = model.folder / OVERRIDES_FILE
        if not file.is_file():
            return cls()
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise ConfigurationError(
                f"The {OVERRIDES_FILE} of {model.name} is invalid: {field} {first['msg']}."
            ) from None


@dataclass(frozen=True)
class SamplingDefaults:
    """The steps and guidance that a model was trained for."""

    steps: int
    guidance: float


def sampling_defaults_of(pipelines: Pipelines) -> SamplingDefaults:
    """Distilled models are recognised by the configurations of their parts."""
    pipe = pipelines.text
    if pipe.unet.config.time_cond_proj_dim is not None:
        return SamplingDefaults(FEW_STEPS, LCM_GUIDANCE)
    if isinstance(pipe.scheduler, diffusers.LCMScheduler) or _is_turbo(pipe.scheduler):
        return SamplingDefaults(FEW_STEPS, NO_GUIDANCE)
    # The pipeline's default: 7.5, and 5 for Stable Diffusion XL.
    guidance = inspect.signature(type(pipe).__call__).parameters["guidance_scale"].default
    return SamplingDefaults(STEPS, guidance)


def capabilities_of(pipelines: Pipelines, model: LocalModel, *, loras: tuple[str, ...], safety: str) -> Capabilities:
    """Raises ConfigurationError if the model's overrides file is invalid."""
    pipe, overrides, defaults = pipelines.text, ModelOverrides.read(model), sampling_defaults_of(pipelines)
    width, height = (side * pipe.vae_scale_factor for side in _latent_size(pipe.unet.config.sample_size))
    takes_guidance = pipe.unet.config.time_cond_proj_dim is not None
    return Capabilities(
        model=model.name,
        width=width,
        height=height,
        # The condition of diffusers' Stable Diffusion pipelines, and never less than one latent pixel.
        multiple_of=max(8, pipe.vae_scale_factor),
        min_side=64,
        max_side=max(width, height) * 4,
        num_inference_steps=overrides.num_inference_steps or defaults.steps,
        guidance_scale=defaults.guidance if overrides.guidance_scale is None else overrides.guidance_scale,
        max_steps=_max_steps(pipe.scheduler),
        schedulers=usable_schedulers(pipe.scheduler.config, only_lcm=takes_guidance),
        max_input_images=1,
        inpainting=True,
        strength=overrides.strength or STRENGTH,
        loras=loras,
        safety=safety,
        ignored=(
            "bfl_model",
            *(("clip_skip",) if pipelines.is_xl else ()),
            *(("negative_prompt",) if takes_guidance else ()),
        ),
    )


def _is_turbo(scheduler: Any) -> bool:
    """SDXL-Turbo, SD-Turbo and similar models start at the last timestep and predict noise.

    Models that start there because they were trained from pure noise say so, or predict velocities.
    """
    config = scheduler.config
    starts_at_last_timestep = config.get("timestep_spacing") == "trailing"
    predicts_noise = config.get("prediction_type") == "epsilon"
    return starts_at_last_timestep and predicts_noise and not config.get("rescale_betas_zero_snr", False)


def _latent_size(sample_size: int | list[int]) -> tuple[int, int]:
    """Width and height. Configurations hold one side, or height and width."""
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    return width, height


def _max_steps(scheduler: Any) -> int:
    """LCM schedulers choose from the steps of the model that theirs was distilled from."""
    steps: int = scheduler.config.get("original_inference_steps", 150)
    return min(steps, 150)
