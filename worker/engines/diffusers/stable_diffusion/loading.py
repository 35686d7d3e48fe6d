"""Loads a model folder as pipelines: one set of weights, and three ways to use it."""

import inspect
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from shared.errors import ConfigurationError
from worker.engines.diffusers.pipeline_loading import load_pipeline
from worker.engines.diffusers.placement import AUTOENCODER, Placement, place, place_where_it_fits
from worker.models.local_model import LocalModel

#: Only safe on CUDA: on Apple's GPU and on CPUs half precision gives black images (diffusers#6136).
HALF = {"cuda": torch.float16}
#: An inpainting model takes noise, the mask and the masked image: 4 + 1 + 4 channels.
INPAINTING_CHANNELS = 9

#: What the parts need besides their weights for an image of a megapixel: two predictions in half precision, and
#: decoding in full precision without tiles. Estimates: batches need more, and get it where there is room.
UNET_BYTES, AUTOENCODER_BYTES = 3 << 29, 3 << 30


@dataclass(frozen=True)
class Family:
    """Pipelines that use the same weights. Listed by name, because diffusers' own lookup imports every pipeline."""

    text: str
    image: str
    inpaint: str
    overrides: dict[str, Any]
    """Parts that are left out: the engine itself runs the safety checker, on finished images."""


_SD = Family(
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
)
_XL = Family(
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    {"add_watermarker": False},
)
#: By the pipeline that a model's index names. The pipeline of latent consistency models differs from the usual one only
#: in its defaults, which sampling_defaults.py reads from the model.
FAMILIES = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "LatentConsistencyModelPipeline": _SD,
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
}


@dataclass(frozen=True)
class Pipelines:
    """A loaded model. All pipelines share the same parts; `inpaint` is None unless the model was trained for it."""

    text: Any
    image: Any
    inpaint: Any | None
    device: torch.device
    is_xl: bool
    placement: Placement

    @property
    def parts(self) -> list[torch.nn.Module]:
        """Everything that has weights."""
        return [part for part in self.text.components.values() if isinstance(part, torch.nn.Module)]

    def activate_offloading(self, pipe: Any) -> None:
        """Call this before using a pipeline: its hooks move offloaded parts to the device in its order."""
        if self.placement is Placement.MODEL_OFFLOAD:
            place(pipe, self.placement, self.device)

    def deactivate_offloading(self) -> None:
        """Call this before adding layers: diffusers would restore the hooks for the first device that it finds."""
        if self.placement is Placement.MODEL_OFFLOAD:
            self.text.remove_all_hooks()
            self.text.to("cpu", silence_dtype_warnings=True)


def family_of(model: LocalModel) -> Family:
    """Raises ConfigurationError for models of other families."""
    name = model.index.get("_class_name")
    family = FAMILIES.get(str(name))
    if family is None:
        raise ConfigurationError(f"The model {model.name} is a {name}; the sd backend runs {', '.join(FAMILIES)}.")
    return family


def load_pipelines(model: LocalModel, device: torch.device, dtype: torch.dtype) -> Pipelines:
    """Raises ConfigurationError if the model cannot be loaded."""
    family = family_of(model)
    pipe = load_pipeline(model, family.text, dtype, **family.overrides)
    _cache_signatures(pipe.unet)
    placement = place_where_it_fits(pipe, device, model.name, _working_bytes(pipe, dtype))
    is_inpainting_model = pipe.unet.config.in_channels == INPAINTING_CHANNELS
    return Pipelines(
        text=pipe,
        image=_sharing_parts(pipe, family.image),
        inpaint=_sharing_parts(pipe, family.inpaint) if is_inpainting_model else None,
        device=device,
        is_xl=family is _XL,
        placement=placement,
    )


def _working_bytes(pipe: Any, dtype: torch.dtype) -> dict[str, int]:
    """For one image of the model's default size. Larger jobs use the fallbacks of out_of_memory.py."""
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    megapixels = height * width * pipe.vae_scale_factor**2 / (1 << 20)
    return {
        "unet": int(UNET_BYTES * megapixels * dtype.itemsize / 2),
        AUTOENCODER: int(AUTOENCODER_BYTES * megapixels),
    }


def _cache_signatures(unet: Any) -> None:
    """Attention layers inspect the signature of their processor at each step, which is slow unless it is cached."""
    calls: set[Any] = {type(processor).__call__ for processor in unet.attn_processors.values()}
    for call in calls:
        call.__signature__ = inspect.signature(call)


def _sharing_parts(pipe: Any, name: str) -> Any:
    """Another pipeline on the same parts. `from_pipe` would refuse small autoencoders, and convert the parts."""
    pipeline = getattr(diffusers, name)
    known = inspect.signature(pipeline.__init__).parameters
    settings = {key: value for key, value in pipe.config.items() if key in known and key not in pipe.components}
    other = pipeline(**pipe.components, **settings)
    other.set_progress_bar_config(disable=True)
    return other
