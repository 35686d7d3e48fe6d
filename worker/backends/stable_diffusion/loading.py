"""From a model's folder to pipelines: one set of weights, and three ways to use it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch

from shared.errors import ConfigurationError
from worker.models.sources import Model

#: Safe on CUDA only: on Apple's GPU and on CPUs half precision gives black pictures (diffusers#6136).
HALF = {"cuda": torch.float16}
#: Besides noise, an inpainting model takes the mask and the picture around it: 4 + 1 + 4 channels.
INPAINTING_CHANNELS = 9


@dataclass(frozen=True)
class Family:
    """Pipelines that understand the same weights. Named, because diffusers' search for them imports all it has."""

    text: str
    image: str
    inpaint: str
    extras: dict[str, Any]
    """Parts that are left out: the safety checker is run outside, on finished pictures."""


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
class Engine:
    """A loaded model. The pipelines hold the very same parts; `inpaint` is there where the model is made for it."""

    text: Any
    image: Any
    inpaint: Any | None
    device: torch.device
    is_xl: bool

    @property
    def parts(self) -> list[torch.nn.Module]:
        """Everything that computes."""
        return [part for part in self.text.components.values() if isinstance(part, torch.nn.Module)]

    @contextmanager
    def offloaded(self, pipe: Any) -> Iterator[None]:
        """Only the part that is at work is on the device. `pipe` is the one that is used meanwhile."""
        pipe.enable_model_cpu_offload(device=self.device)
        try:
            yield
        finally:
            pipe.remove_all_hooks()
            pipe.to(self.device)


def load(model: Model, device: torch.device, dtype: torch.dtype) -> Engine:
    """Raises ConfigurationError with one sentence when the model cannot be had."""
    name = model.index.get("_class_name")
    family = FAMILIES.get(str(name))
    if family is None:
        raise ConfigurationError(f"The model {model.name} is a {name}; the sd backend runs {', '.join(FAMILIES)}.")
    try:
        pipe = getattr(diffusers, family.text).from_pretrained(
            model.location,
            dtype=dtype,
            use_safetensors=True,
            variant=_variant(Path(model.location), half=dtype is not torch.float32),
            **family.extras,
            local_files_only=True,
        )
        pipe.to(device)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigurationError(f"The model {model.name} could not be loaded: {reason}") from error
    pipe.set_progress_bar_config(disable=True)
    _know_signatures(pipe.unet)
    made_for_inpainting = pipe.unet.config.in_channels == INPAINTING_CHANNELS
    return Engine(
        text=pipe,
        image=_sharing(pipe, family.image),
        inpaint=_sharing(pipe, family.inpaint) if made_for_inpainting else None,
        device=device,
        is_xl=family is _XL,
    )


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


def _variant(folder: Path, *, half: bool) -> str | None:
    """Files in half precision, where that is what runs, or where there are no others."""
    names = [path.name for path in (folder / "unet").glob("*.safetensors*")]
    halves = [name for name in names if ".fp16." in name]
    return "fp16" if halves and (half or len(halves) == len(names)) else None
