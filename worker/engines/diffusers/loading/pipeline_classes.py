"""The installed pipeline that runs a model, and what follows from its signature."""

import inspect
import re
from collections.abc import Mapping, Set
from dataclasses import replace
from inspect import Parameter
from typing import Any

import diffusers

from shared.errors import ConfigurationError
from worker.engines.diffusers.loading.modular import modular_class
from worker.engines.diffusers.loading.part_classes import part_class
from worker.models.families import UNLISTED, Family, Guidance, Siblings, family_of
from worker.models.local_model import LocalModel

_NAME = re.compile(r"[A-Z]\w{2,80}Pipeline", re.ASCII)


def pipeline_of(model: LocalModel) -> tuple[Any, Family]:
    """The pipeline that runs a model, and its family, with the siblings that are installed.

    An unlisted family has what the signature of its pipeline tells. Raises ConfigurationError.
    """
    family = family_of(model)
    pipeline = _pipeline_class(model, family)
    parameters = parameters_of(pipeline)
    if family is UNLISTED:
        family = _unlisted_family(parameters)
    if model.is_modular:
        siblings = _modular_siblings(model, family, parameters)
    else:
        stem = (family.runs or model.pipeline_class).removesuffix("Pipeline")
        names = (name and name.format(stem) for name in (family.siblings.image, family.siblings.inpaint))
        siblings = Siblings(*(name if _fits(name, model) else None for name in names))
    return pipeline, replace(family, siblings=siblings)


def _pipeline_class(model: LocalModel, family: Family) -> Any:
    """From the installed diffusers only: nothing of the model's folder is imported."""
    name = family.runs or model.pipeline_class
    found = installed(name)
    if found is None:
        raise ConfigurationError(f"The model {model.name} is a {name}, which the installed diffusers does not have.")
    return modular_class(model, found)


def installed(name: str | None) -> Any | None:
    """The pipeline of this name; None if diffusers has none, or if a library that it needs is missing."""
    if not name or not _NAME.fullmatch(name):
        return None
    found = part_class("diffusers", name)
    return found if found and issubclass(found, diffusers.DiffusionPipeline | diffusers.ModularPipeline) else None


def parameters_of(pipeline: Any) -> Mapping[str, Parameter]:
    """What its call takes."""
    call = pipeline if isinstance(pipeline, type) else type(pipeline)
    return inspect.signature(call.__call__).parameters


def init_parameters(pipeline: type) -> Mapping[str, Parameter]:
    """The parts and settings that it is created from."""
    return inspect.signature(pipeline).parameters


def assembled(pipeline: Any, given: Mapping[str, Any]) -> Any:
    """A pipeline of those of these parts and settings that it takes. Raises ValueError if it needs others."""
    known = init_parameters(pipeline)
    if missing := _needed(pipeline) - given.keys():
        raise ValueError(f"its index names no {min(missing)}")
    pipe = pipeline(**{name: given[name] for name in known if name in given})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _needed(pipeline: type) -> Set[str]:
    return {name for name, one in init_parameters(pipeline).items() if one.default is Parameter.empty}


def has_negative_prompt(family: Family, parameters: Mapping[str, Parameter]) -> bool:
    return family.form in (Guidance.CFG, Guidance.TRUE_CFG) and "negative_prompt" in parameters


def scale_name(parameters: Mapping[str, Parameter]) -> str | None:
    """The argument that takes the scale of embedded guidance."""
    names = ("distilled_guidance_scale", "guidance_scale")
    return next((name for name in names if name in parameters), None)


def _unlisted_family(parameters: Mapping[str, Parameter]) -> Family:
    """What the names of arguments mean elsewhere."""
    form = _guidance_form(parameters)
    scale = "true_cfg_scale" if form is Guidance.TRUE_CFG else scale_name(parameters)
    return replace(
        UNLISTED,
        steps=int(_default(parameters, "num_inference_steps") or 50),
        guidance=float(_default(parameters, scale or "") or 0.0),
        form=form,
        references=int("image" in parameters and "strength" not in parameters),
    )


def _guidance_form(parameters: Mapping[str, Parameter]) -> Guidance:
    if "true_cfg_scale" in parameters and _default(parameters, "guidance_scale") is None:
        return Guidance.TRUE_CFG
    if "guidance_scale" in parameters and "negative_prompt" in parameters:
        return Guidance.CFG
    return Guidance.EMBEDDED if scale_name(parameters) else Guidance.NONE


def _modular_siblings(model: LocalModel, family: Family, inputs: Mapping[str, Parameter]) -> Siblings:
    """A modular pipeline is its own sibling: it chooses by its inputs what it does."""
    starts = {"image", "strength"} <= inputs.keys() and not family.references
    repaints = {"image", "mask_image"} <= inputs.keys()
    return Siblings(*(model.pipeline_class if can else None for can in (starts, repaints)))


def _default(parameters: Mapping[str, Parameter], name: str) -> Any:
    return parameters[name].default if name in parameters else None


def _fits(name: str | None, model: LocalModel) -> bool:
    """Whether the pipeline is installed and needs no part that the model lacks."""
    found = installed(name)
    return found is not None and _needed(found) <= model.index.keys()
