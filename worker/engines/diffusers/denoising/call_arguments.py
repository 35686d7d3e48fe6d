"""The arguments of a pipeline's call that depend on no input image."""

from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

from shared.jobs.requests import GenerationRequest
from worker.engines.diffusers.loading.pipeline_classes import parameters_of, scale_name
from worker.models.families import Family, Guidance

#: What its authors recommend where a negative prompt is needed and none is given.
_NO_TEXT = " "
#: With this number of steps, Sana Sprint uses its own intermediate timestep.
_TWO_STEPS = 2


def call_arguments(
    pipe: Any,
    family: Family,
    request: GenerationRequest,
    prompts: Sequence[tuple[str, str | None]],
    steps: int,
    **others: Any,
) -> dict[str, Any]:
    """All arguments, the others included, that the pipeline accepts.

    `prompts` has a prompt and a negative prompt for each image of the batch, `request` what they share.
    """
    parameters, (width, height) = parameters_of(pipe), request.size
    arguments = {
        "prompt": one_or_all([prompt for prompt, _ in prompts]),
        "width": width,
        "height": height,
        # The pipeline of FLUX.1 Kontext would scale every size to a megapixel.
        "max_area": width * height,
        "num_inference_steps": steps,
        **_guidance(family, parameters, request.guidance_scale, [negative for _, negative in prompts]),
        **family.arguments,
        **others,
    }
    if steps != _TWO_STEPS:
        arguments["intermediate_timesteps"] = None
    return {name: value for name, value in arguments.items() if name in parameters}


def one_or_all(values: Sequence[Any]) -> Any:
    """The single value, or the list: pipelines accept both for the images of a batch."""
    return values[0] if len(values) == 1 else list(values)


def _guidance(
    family: Family, parameters: Mapping[str, Parameter], scale: float | None, negative_prompts: Sequence[str | None]
) -> dict[str, Any]:
    """The arguments for guidance, in each of its forms."""
    name = scale_name(parameters)
    match family.form:
        case Guidance.NONE:
            return {}
        case Guidance.DISTILLED:
            # The scale that the weights were trained with, whatever the request says.
            return {name: family.guidance} if name else {}
        case Guidance.EMBEDDED:
            return {name: scale} if name else {}
        case Guidance.TRUE_CFG:
            negatives = one_or_all([text or _NO_TEXT for text in negative_prompts])
            return {"true_cfg_scale": scale, "negative_prompt": negatives if (scale or 0) > 1 else None}
        case Guidance.CFG if any(text is not None for text in negative_prompts):
            return {"guidance_scale": scale, "negative_prompt": one_or_all(negative_prompts)}
        case Guidance.CFG:
            # The default is an empty text for some pipelines, which then fail for None.
            return {"guidance_scale": scale}


def has_second_prediction(family: Family, scale: float | None) -> bool:
    """Whether the negative prompt has an effect."""
    return family.form in (Guidance.CFG, Guidance.TRUE_CFG) and (scale or 0) > family.guided_above
