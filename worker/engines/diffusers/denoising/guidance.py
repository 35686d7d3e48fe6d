"""The arguments of a pipeline that guide it by prompts, in each of the five forms of guidance."""

from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

from worker.engines.diffusers.loading.pipeline_classes import scale_name
from worker.models.families import Family, Guidance

#: What its authors recommend where a negative prompt is needed and none is given.
_NO_TEXT = " "


def guidance_arguments(
    family: Family, parameters: Mapping[str, Parameter], scale: float | None, negative_prompts: Sequence[str | None]
) -> dict[str, Any]:
    """`negative_prompts` has one for each image of the batch."""
    name = scale_name(parameters)
    match family.form:
        case Guidance.NONE:
            return {}
        case Guidance.DISTILLED:
            # What the weights were trained with, whatever the request says.
            return {name: family.guidance} if name else {}
        case Guidance.EMBEDDED:
            return {name: scale} if name else {}
        case Guidance.TRUE_CFG:
            negatives = [text or _NO_TEXT for text in negative_prompts] if (scale or 0) > 1 else None
            return {"true_cfg_scale": scale, "negative_prompt": _one_or_all(negatives)}
        case Guidance.CFG:
            named = any(text is not None for text in negative_prompts)
            return {"guidance_scale": scale, "negative_prompt": _one_or_all(negative_prompts if named else None)}


def _one_or_all(texts: Sequence[str | None] | None) -> Any:
    return None if texts is None else texts[0] if len(texts) == 1 else list(texts)


def has_second_prediction(family: Family, scale: float | None) -> bool:
    """Whether the negative prompt has an effect."""
    return family.form in (Guidance.CFG, Guidance.TRUE_CFG) and (scale or 0) > family.guided_above
