"""Tells apart models of one family: by shapes, by markers, by ModelSpec, and where nothing else differs by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.models.checkpoints import configurations
from worker.models.checkpoints.header import Header, Tensor
from worker.models.checkpoints.rejections import NotACheckpoint

_V = {"prediction_type": "v_prediction"}
#: Zero terminal signal-to-noise ratio: the last timestep is pure noise.
_ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@dataclass(frozen=True)
class Variant:
    pipeline_class: str
    scheduler: str | None = None
    """A bundled configuration in place of the family's."""
    scheduler_changes: Mapping[str, Any] = field(default_factory=dict)
    family_key: str | None = None
    """The row in families.py; None leaves it to the configurations."""


def variant_of(family: str, denoiser: Mapping[str, Tensor], header: Header, words: str) -> Variant:
    """`words` are the file's name and title. Raises NotACheckpoint for variants that need other inputs."""
    match family:
        case "sd15" | "sd2" | "sdxl":
            return _unet_variant(family, denoiser, header, words)
        case "flux1":
            return _flux_variant(denoiser, words)
        case "z-image" if _says(words, "turbo"):
            return Variant("ZImagePipeline", "flow-shift-3", family_key="z-image-turbo")
        case "sd3" if _says(words, "turbo"):
            return Variant(configurations.pipeline_of(family), family_key="sd3.5-turbo")
        case _:
            return Variant(configurations.pipeline_of(family), family_key=family)


def _says(words: str, pattern: str) -> bool:
    """Whole words, also in names such as dreamshaperXL_turboDpmppSDE or sd_xl_turbo_1.0_fp16."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words)
    return re.search(rf"(?<![a-z])(?:{pattern})(?![a-z])", spaced.lower()) is not None


#: Distilled for a few steps; their tensors are those of the usual models.
_FEW_STEPS = {"turbo": "turbo", "lightning": "lightning", "hyper": r"hyper[-_ ]?(?:sdxl|sd|\d+[-_ ]?steps?)"}
_CHANNELS = {5: "a depth map", 7: "an image to enlarge", 8: "an image to edit"}


def _unet_variant(family: str, denoiser: Mapping[str, Tensor], header: Header, words: str) -> Variant:
    channels, *_ = denoiser["input_blocks.0.0.weight"].shape[1:] or (0,)
    if channels not in (4, 9):
        extra = _CHANNELS.get(channels, f"{channels} channels")
        raise NotACheckpoint(f"This Stable Diffusion needs {extra} as input, which is not supported.")
    if "edm_mean" in header.tensors:
        raise NotACheckpoint("Playground 2.5 is supported as a folder in diffusers' format only.")
    inpainting = channels == 9
    pipeline = f"StableDiffusion{'XL' if family == 'sdxl' else ''}{'Inpaint' if inpainting else ''}Pipeline"
    if "time_embed.cond_proj.weight" in denoiser:
        lcm = pipeline if inpainting or family == "sdxl" else "LatentConsistencyModelPipeline"
        return Variant(lcm, "lcm")
    if _says(words, "lcm"):
        return Variant(pipeline, "lcm")
    if kind := next((kind for kind, pattern in _FEW_STEPS.items() if _says(words, pattern)), None):
        scheduler = "euler-ancestral-trailing" if kind == "turbo" else "euler"
        spacing = {"timestep_spacing": "trailing", **(_V if _predicts_velocity(header) else {})}
        return Variant(pipeline, scheduler, spacing, family_key=_few_steps_key(family, words))
    changes = _prediction(family, inpainting, header, words)
    return Variant(pipeline, None, changes, family_key={"sd15": "sd1"}.get(family, family))


def _few_steps_key(family: str, words: str) -> str | None:
    """The model SDXL-Turbo itself differs from community models that are merged with such a model."""
    if family != "sdxl":
        return None
    return "sdxl-turbo" if _says(words, r"sd[-_ ]?xl[-_ ]turbo") else "sdxl-lightning"


def _predicts_velocity(header: Header) -> bool:
    """Tools mark such files with an empty tensor."""
    return "v_pred" in header.tensors


def _prediction(family: str, inpainting: bool, header: Header, words: str) -> dict[str, Any]:
    zero = _ZERO_SNR if "ztsnr" in header.tensors else {}
    if header.spec.prediction_type:
        return {"prediction_type": header.spec.prediction_type, **zero}
    if _predicts_velocity(header) or _says(words, r"v[-_ ]?pred(?:iction)?"):
        return {**_V, **(zero if zero or family != "sdxl" else _ZERO_SNR)}
    if family == "sd2":
        # Version 2.1 with 768 pixels predicts velocities; the base models with 512 pixels predict noise.
        noise = inpainting or _says(words, "base|512|epsilon|eps")
        return {"prediction_type": "epsilon" if noise else "v_prediction"}
    return dict(zero)


def _flux_variant(denoiser: Mapping[str, Tensor], words: str) -> Variant:
    match denoiser["img_in.weight"].shape[1:2]:
        case (384,):
            return Variant("FluxFillPipeline", family_key="flux-fill")
        case (128,):
            raise NotACheckpoint("FLUX.1 Depth and Canny need a control image, which is not supported.")
    if "guidance_in.in_layer.weight" not in denoiser:
        return Variant("FluxPipeline", "flow-shift-1", family_key="flux-schnell")
    if _says(words, "kontext"):
        return Variant("FluxKontextPipeline", family_key="flux-kontext")
    return Variant("FluxPipeline", family_key="flux-dev")
