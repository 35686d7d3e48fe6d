"""Loads a model as pipelines: one set of weights, and up to three ways to use it."""

import inspect
import math
from collections.abc import Hashable, Set
from dataclasses import dataclass
from typing import Any

import torch

from worker.engines.diffusers.loading.modular import is_modular
from worker.engines.diffusers.loading.pipeline_classes import assembled, installed, pipeline_of
from worker.engines.diffusers.loading.pipeline_loading import load_pipeline
from worker.engines.diffusers.memory.out_of_memory import free_memory
from worker.engines.diffusers.memory.placement import (
    has_own_memory,
    place,
    place_where_it_fits,
    room_for,
)
from worker.engines.diffusers.memory.quantization import part_size, quantize
from worker.engines.diffusers.memory.shared_parts import PartLoading, parts_of
from worker.engines.diffusers.options import DiffusersOptions
from worker.models.families import Family
from worker.models.local_model import LocalModel
from worker.models.placements import AUTOENCODER, Placement, Quantization, working_bytes


@dataclass(frozen=True)
class Pipelines:
    """A loaded model. All pipelines share the same parts, some of them with other models."""

    text: Any
    image: Any | None
    """Starts from an image."""
    inpaint: Any | None
    """Repaints what a mask shows; None if the model repaints by blending latents, or not at all."""
    is_inpainting_model: bool
    """Whether it takes the mask as an input, and so needs one always."""
    family: Family
    denoiser_name: str
    device: torch.device
    placement: Placement
    quantization: Quantization

    @property
    def denoiser(self) -> Any:
        return getattr(self.text, self.denoiser_name)

    @property
    def parts(self) -> list[torch.nn.Module]:
        """Everything that has weights."""
        return list(parts_of(self.text).values())

    @property
    def sizes(self) -> dict[Hashable, int]:
        """Bytes of each part by its identity."""
        return {id(part): part_size(part) for part in self.parts}

    def activate_offloading(self, pipe: Any) -> None:
        """Call this before using a pipeline: its hooks move offloaded parts to the device in its order."""
        if self.placement is Placement.MODEL_OFFLOAD:
            place(pipe, self.placement, self.device)

    def deactivate_offloading(self) -> None:
        """Call this before adding layers: diffusers would restore the hooks for the first device that it finds."""
        if self.placement is Placement.MODEL_OFFLOAD:
            self.text.remove_all_hooks()
            self.text.to("cpu", silence_dtype_warnings=True)

    def leave_device(self, staying: Set[Hashable]) -> None:
        """Move all parts but these to main memory."""
        match self.placement:
            case Placement.RESIDENT:
                self.to_main_memory(self.sizes.keys() - staying)
            case Placement.MODEL_OFFLOAD:
                self.deactivate_offloading()
            case Placement.GROUP_OFFLOAD:
                # The others are there already, but for the layers that compute.
                getattr(self.text, AUTOENCODER).to("cpu")

    def return_to_device(self) -> None:
        """Undo `leave_device`."""
        if self.placement is Placement.GROUP_OFFLOAD:
            getattr(self.text, AUTOENCODER).to(self.device)
        else:
            place(self.text, self.placement, self.device)

    def to_main_memory(self, parts: Set[Hashable]) -> None:
        for part in self.parts:
            if id(part) in parts:
                part.to("cpu")


def load_pipelines(
    model: LocalModel,
    device: torch.device,
    dtype: torch.dtype,
    options: DiffusersOptions,
    parts: PartLoading,
) -> Pipelines:
    """Raises ConfigurationError if the model cannot be loaded."""
    pipeline, family = pipeline_of(model)
    pipe = load_pipeline(model, pipeline, dtype, parts)
    denoiser = model.denoiser
    _cache_signatures(getattr(pipe, denoiser))
    if has_own_memory(device):
        # What torch keeps for itself, of the last job of another model for example, counts as taken.
        free_memory()
    working = working_bytes(parts_of(pipe), math.prod(family.native_size(model)), dtype.itemsize)
    room = room_for(pipe, device)
    quantization = quantize(pipe, denoiser, options.quantize, device, room, working, parts.separate)
    placement = place_where_it_fits(pipe, device, model.name, working, parts.separate)
    if placement is Placement.RESIDENT:
        parts.finish(pipe)
    # Stable Diffusion's pipeline for masks is for models that were trained for it; others blend latents.
    has_inpaint = model.is_inpainting_model or not family.blends_masks
    image = _sharing_parts(pipe, family.siblings.image)
    inpaint = _sharing_parts(pipe, family.siblings.inpaint) if has_inpaint else None
    for one in filter(None, (pipe, image, inpaint)):
        _tell_device(one, device)
    return Pipelines(
        text=pipe,
        image=image,
        inpaint=inpaint,
        is_inpainting_model=model.is_inpainting_model,
        family=family,
        denoiser_name=denoiser,
        device=device,
        placement=placement,
        quantization=quantization,
    )


def _cache_signatures(denoiser: Any) -> None:
    """Attention layers inspect the signature of their processor at each step, which is slow unless it is cached."""
    calls: set[Any] = {type(processor).__call__ for processor in getattr(denoiser, "attn_processors", {}).values()}
    for call in calls:
        call.__signature__ = inspect.signature(call)


def _tell_device(pipe: Any, device: torch.device) -> None:
    """Where it computes, wherever its parts wait. diffusers searches all layers of all parts for that in each call."""
    kind = type(pipe)
    # With its number, as layers name it.
    known = {"_execution_device": torch.empty(0, device=device).device, "__module__": kind.__module__}
    object.__setattr__(pipe, "__class__", type(kind.__name__, (kind,), known))


def _sharing_parts(pipe: Any, name: str | None) -> Any | None:
    """Another pipeline on the same parts. `from_pipe` would refuse small autoencoders, and convert the parts."""
    pipeline = type(pipe) if is_modular(pipe) else installed(name)
    return assembled(pipeline, {**pipe.config, **pipe.components}) if name else None
