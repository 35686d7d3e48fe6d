"""From a model's folder to pipelines: one set of weights, and three ways to use it."""

import inspect
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from shared.errors import ConfigurationError
from worker.engines.diffusers.pipeline_loading import load_pipeline
from worker.engines.diffusers.placement import AUTOENCODER, Placement, place, settle
from worker.models.sources import LocalModel

#: Safe on CUDA only: on Apple's GPU and on CPUs half precision gives black images (diffusers#6136).
HALF = {"cuda": torch.float16}
#: Besides noise, an inpainting model takes the mask and the image around it: 4 + 1 + 4 channels.
INPAINTING_CHANNELS = 9

#: What they need beside their weights for an image of a megapixel: two predictions in half precision, and decoding in
#: full precision, in one piece. Estimates: batches need more, and get it where there is room.
UNET_BYTES, AUTOENCODER_BYTES = 3 << 29, 3 << 30


@dataclass(frozen=True)
class Family:
    """Pipelines that understand the same weights. Named, because diffusers' search for them imports all it has."""

    text: str
    image: str
    inpaint: str
    extras: dict[str, Any]
    """Parts that are left out: the safety checker is run outside, on finished images."""


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
#: By what a model's index calls its pipeline. That of latent consistency models differs from the usual one only in its
#: own defaults, which are taken from the model (see defaults.py).
FAMILIES = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionInpaintPipeline": _SD,
    "LatentConsistencyModelPipeline": _SD,
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLInpaintPipeline": _XL,
}


@dataclass(frozen=True)
class Pipelines:
    """A loaded model. The pipelines hold the very same parts; `inpaint` is there where the model is made for it."""

    text: Any
    image: Any
    inpaint: Any | None
    device: torch.device
    is_xl: bool
    placement: Placement

    @property
    def parts(self) -> list[torch.nn.Module]:
        """Everything that computes."""
        return [part for part in self.text.components.values() if isinstance(part, torch.nn.Module)]

    def prepare(self, pipe: Any) -> None:
        """To be called before a pipeline is used: parts that wait in main memory come when it is their turn in it."""
        if self.placement is Placement.MODEL_OFFLOAD:
            place(pipe, self.placement, self.device)

    def bare(self) -> None:
        """To be called before layers are added: diffusers would put hooks back for whichever device comes first."""
        if self.placement is Placement.MODEL_OFFLOAD:
            self.text.remove_all_hooks()
            self.text.to("cpu", silence_dtype_warnings=True)


def family_of(model: LocalModel) -> Family:
    """Raises ConfigurationError for a model of another kind."""
    name = model.index.get("_class_name")
    family = FAMILIES.get(str(name))
    if family is None:
        raise ConfigurationError(f"The model {model.name} is a {name}; the sd backend runs {', '.join(FAMILIES)}.")
    return family


def load(model: LocalModel, device: torch.device, dtype: torch.dtype) -> Pipelines:
    """Raises ConfigurationError with one sentence when the model cannot be had."""
    family = family_of(model)
    pipe = load_pipeline(model, family.text, dtype, **family.extras)
    _know_signatures(pipe.unet)
    placement = settle(pipe, device, model.name, _working_bytes(pipe, dtype))
    made_for_inpainting = pipe.unet.config.in_channels == INPAINTING_CHANNELS
    return Pipelines(
        text=pipe,
        image=_sharing(pipe, family.image),
        inpaint=_sharing(pipe, family.inpaint) if made_for_inpainting else None,
        device=device,
        is_xl=family is _XL,
        placement=placement,
    )


def _working_bytes(pipe: Any, dtype: torch.dtype) -> dict[str, int]:
    """For one image of the model's own size: what does not fit beside that is given up when it happens."""
    size = pipe.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    megapixels = height * width * pipe.vae_scale_factor**2 / (1 << 20)
    return {
        "unet": int(UNET_BYTES * megapixels * dtype.itemsize / 2),
        AUTOENCODER: int(AUTOENCODER_BYTES * megapixels),
    }


def _know_signatures(unet: Any) -> None:
    """Attention layers ask at each step what their processor takes: Python finds that out anew unless it is told."""
    calls: set[Any] = {type(processor).__call__ for processor in unet.attn_processors.values()}
    for call in calls:
        call.__signature__ = inspect.signature(call)


def _sharing(pipe: Any, name: str) -> Any:
    """Another pipeline on the same parts. `from_pipe` would refuse small autoencoders, and convert what it takes."""
    pipeline = getattr(diffusers, name)
    known = inspect.signature(pipeline.__init__).parameters
    settings = {key: value for key, value in pipe.config.items() if key in known and key not in pipe.components}
    other = pipeline(**pipe.components, **settings)
    other.set_progress_bar_config(disable=True)
    return other
