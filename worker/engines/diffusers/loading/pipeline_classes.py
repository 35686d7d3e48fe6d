"""The installed pipeline that runs a model, and what its signature tells."""

import inspect
import re
from collections.abc import Mapping
from inspect import Parameter
from typing import Any

import diffusers

from shared.errors import ConfigurationError
from worker.engines.diffusers.loading.modular import modular_class
from worker.models.families import UNLISTED, Family, Guidance, Siblings
from worker.models.local_model import LocalModel, ModelFormat

_NAME = re.compile(r"[A-Z]\w{2,80}Pipeline", re.ASCII)


def pipeline_class(model: LocalModel, family: Family) -> Any:
    """From the installed diffusers only: nothing of the model's folder is imported.

    Raises ConfigurationError.
    """
    name = family.runs or model.pipeline_class
    found = installed(name)
    if found is None:
        raise ConfigurationError(f"The model {model.name} is a {name}, which the installed diffusers does not have.")
    return modular_class(model, found)


def installed(name: str | None) -> Any | None:
    """The pipeline of this name; None if diffusers has none, or if a library that it needs is missing."""
    if not name or not _NAME.fullmatch(name):
        return None
    found = getattr(diffusers, name, None)
    is_pipeline = isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline | diffusers.ModularPipeline)
    return found if is_pipeline else None


def parameters_of(pipeline: Any) -> Mapping[str, Parameter]:
    """What its call takes."""
    call = pipeline if isinstance(pipeline, type) else type(pipeline)
    return inspect.signature(call.__call__).parameters


def siblings_of(model: LocalModel, family: Family) -> Siblings:
    """Those that are installed. Of unlisted pipelines, those with the usual names for the same parts.

    A modular pipeline is its own sibling: it chooses by its inputs what it does.
    """
    names = family.siblings
    if model.format is ModelFormat.MODULAR:
        inputs = set(parameters_of(pipeline_class(model, family)))
        starts = {"image", "strength"} <= inputs and not family.references
        repaints = {"image", "mask_image"} <= inputs
        return Siblings(*(model.pipeline_class if can else None for can in (starts, repaints)))
    if family is UNLISTED:
        stem = model.pipeline_class.removesuffix("Pipeline")
        names = Siblings(f"{stem}Img2ImgPipeline", f"{stem}InpaintPipeline")
    return Siblings(*(name if _fits(name, model) else None for name in (names.image, names.inpaint)))


def guidance_form(family: Family, parameters: Mapping[str, Parameter]) -> Guidance:
    """Of unlisted pipelines, what the names of their arguments mean elsewhere."""
    if family is not UNLISTED:
        return family.form
    if "true_cfg_scale" in parameters and _default(parameters, "guidance_scale") is None:
        return Guidance.TRUE_CFG
    if "guidance_scale" in parameters and "negative_prompt" in parameters:
        return Guidance.CFG
    return Guidance.EMBEDDED if scale_name(parameters) else Guidance.NONE


def has_negative_prompt(form: Guidance, parameters: Mapping[str, Parameter]) -> bool:
    return form in (Guidance.CFG, Guidance.TRUE_CFG) and "negative_prompt" in parameters


def max_references(family: Family, parameters: Mapping[str, Parameter]) -> int:
    """How many input images the pipeline itself takes, to look at them."""
    looks_at_images = "image" in parameters and "strength" not in parameters
    return int(looks_at_images) if family is UNLISTED else family.references


def scale_name(parameters: Mapping[str, Parameter]) -> str | None:
    """The argument that takes the scale of embedded guidance."""
    names = ("distilled_guidance_scale", "guidance_scale")
    return next((name for name in names if name in parameters), None)


def default_steps(family: Family, parameters: Mapping[str, Parameter]) -> int:
    return family.steps or int(_default(parameters, "num_inference_steps") or 50)


def default_guidance(family: Family, form: Guidance, parameters: Mapping[str, Parameter]) -> float | None:
    """None without guidance."""
    if form is Guidance.NONE:
        return None
    if family is not UNLISTED:
        return family.guidance
    name = "true_cfg_scale" if form is Guidance.TRUE_CFG else scale_name(parameters)
    return float(_default(parameters, name or "") or 0.0)


def _default(parameters: Mapping[str, Parameter], name: str) -> Any:
    return parameters[name].default if name in parameters else None


def _fits(name: str | None, model: LocalModel) -> bool:
    """Whether the pipeline is installed and needs no part that the model lacks."""
    if (found := installed(name)) is None:
        return False
    needed = {
        key
        for key, parameter in inspect.signature(found.__init__).parameters.items()
        if parameter.default is Parameter.empty and key != "self"
    }
    return needed <= set(model.index)
