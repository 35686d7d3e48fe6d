# Over 300 lines: one table, with a row for each family.
"""Families of models: what a pipeline's signature and configurations do not tell. One frozen row per family.

The defaults in a pipeline's signature are those of its base model. A distilled model has a row of its own, with the
steps and the guidance that it was trained for.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from worker.models.local_model import LocalModel

#: Models that were not distilled need more.
FEW_STEPS = 12
#: Of pipelines that say nothing about their size.
USUAL_SIDE = 1024


class Guidance(StrEnum):
    """What a guidance scale does to a model."""

    CFG = "cfg"
    """`guidance_scale` weighs a second prediction, with the negative prompt."""
    EMBEDDED = "embedded"
    """The scale is an input of the model: there is no second prediction, and no negative prompt."""
    TRUE_CFG = "true_cfg"
    """Like CFG, but the argument is called `true_cfg_scale`, and nothing happens without a negative prompt."""
    DISTILLED = "distilled"
    """Guidance is built into the weights: the pipeline gets the value that they were trained with."""
    NONE = "none"
    """The pipeline has no such argument, or the model ignores it."""


class LatentLayout(StrEnum):
    """How a pipeline arranges latents between two steps."""

    SPATIAL = "spatial"
    """(images, channels, height, width)"""
    PATCHES = "patches"
    """(images, patches, values): 2x2 latents each, four values of the first channel, then four of the next."""
    FRAMES = "frames"
    """(images, frames, height, width, channels), with a single frame."""


@dataclass(frozen=True)
class Siblings:
    """Pipelines that do other things with the same weights: by default those with the usual names, where they exist."""

    image: str | None = "{}Img2ImgPipeline"
    """Starts from an image, and changes it by `strength`."""
    inpaint: str | None = "{}InpaintPipeline"
    """Repaints what a mask shows."""


@dataclass(frozen=True)
class Family:
    key: str
    title: str
    pipelines: tuple[str, ...]
    """Class names in diffusers."""
    steps: int
    guidance: float
    """The default scale; for DISTILLED, the fixed one."""
    form: Guidance = Guidance.CFG
    is_variant: Callable[[LocalModel], bool] | None = None
    """Tells models of this family from others with the same pipeline; None for the family that takes the rest."""
    guided_above: float = 1.0
    """Up to this scale there is no second prediction."""
    runs: str | None = None
    """The pipeline that runs the model, if it is not the one that the index names."""
    siblings: Siblings = Siblings()
    references: int = 0
    """How many input images the pipeline itself takes, as something to look at."""
    needs: tuple[str, ...] = ()
    """Request fields without which the pipeline does nothing."""
    side: int | None = None
    """The native size; None if the configuration of the denoiser contains it, or if it is the usual one."""
    patch: int = 2
    """How many latents belong together: sides are multiples of so many times the scale of the autoencoder."""
    least_multiple: int = 8
    """A condition of the pipeline, whatever the scale is; 8 is that of Stable Diffusion's."""
    max_side: int = 2048
    max_pixels: int | None = 4_194_304
    size_tolerance: float = 4.0
    """See Capabilities: denoisers with attention alone make good images of a quarter to four times the native area."""
    fixed_sizes: bool = False
    """Whether the pipeline only makes sizes from a list of its own, and takes the one whose shape is closest."""
    layout: LatentLayout = LatentLayout.SPATIAL
    is_safe_in_float16: bool = False
    """All newer models overflow in float16."""
    reads_with_clip: bool = False
    """Whether CLIP alone encodes the prompts: words may have weights, and texts may be encoded one by one."""
    blends_masks: bool = False
    """Whether models that were not trained for masks get them by blending latents after each step."""
    batches: bool = False
    """Whether an image of a batch is the one that it would be alone."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of every call."""
    licence: str | None = None
    """None if that depends on the model."""

    @property
    def is_distilled(self) -> bool:
        """Whether it was trained for a few steps."""
        return self.form is Guidance.DISTILLED or self.steps <= FEW_STEPS

    def native_size(self, model: LocalModel) -> tuple[int, int]:
        """Width and height. Configurations hold one side in latents, or height and width."""
        size = model.config(model.denoiser).get("sample_size") or USUAL_SIDE // model.latent_side
        height, width = (size, size) if isinstance(size, int) else size
        scaled = width * model.latent_side, height * model.latent_side
        native = scaled if self.side is None else (self.side, self.side)
        return model.overrides.width or native[0], model.overrides.height or native[1]

    def side_multiple(self, model: LocalModel) -> int:
        """Sides are multiples of it."""
        return max(self.least_multiple, model.latent_side * self.patch)


def family_of(model: LocalModel) -> Family:
    """The family that the operator or a file names, or else the first that accepts the model.

    UNLISTED for a pipeline that no row names.
    """
    pipeline = _MODULAR.sub("Pipeline", model.pipeline_class)
    rows = [row for row in FAMILIES if pipeline in row.pipelines]
    if pipeline != model.pipeline_class:
        rows = [_as_modular(row) for row in rows]
    named = next((row for row in rows if row.key == (model.overrides.family or model.family_key)), None)
    if named is not None:
        return named
    distilled = model.overrides.distilled
    if distilled is not None:
        rows = [row for row in rows if row.is_distilled == distilled]
    accepting = (row for row in rows if row.is_variant is None or row.is_variant(model))
    return next(accepting, rows[0] if distilled and rows else UNLISTED)


#: The same models have a modular pipeline, and some variants one of their own.
_MODULAR = re.compile(r"(?:Base|Turbo)?ModularPipeline$")
#: The guider of Z-Image counts its scale from one, its other pipelines from zero.
_MODULAR_FACTS: Mapping[str, Mapping[str, Any]] = {"z-image": {"guidance": 5.0, "guided_above": 1.0}}


def _as_modular(row: Family) -> Family:
    """A modular pipeline reads texts and blends masks by itself, and a part of it weighs predictions."""
    changes: dict[str, Any] = {"runs": None, "reads_with_clip": False, "blends_masks": False, "batches": False}
    if row.form is Guidance.TRUE_CFG:
        changes["form"] = Guidance.CFG
    return replace(row, **changes, **_MODULAR_FACTS.get(row.key, {}))


def _named(pattern: str) -> Callable[[LocalModel], bool]:
    """By the last part of the name: for models that differ from others in nothing else."""
    words = re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])", re.IGNORECASE)

    def is_named(model: LocalModel) -> bool:
        names = (model.name, str(model.index.get("_name_or_path") or ""))
        return any(words.search(re.split(r"[/\\]", name.rstrip("/\\"))[-1]) for name in names)

    return is_named


def is_consistency_model(model: LocalModel) -> bool:
    """Latent consistency models take the scale of guidance as an input."""
    return model.config("unet").get("time_cond_proj_dim") is not None


def _has_few_steps(model: LocalModel) -> bool:
    """SDXL-Turbo, SD-Turbo and similar models start at the last timestep and predict noise.

    Models that start there because they were trained from pure noise say so, or predict velocities.
    """
    scheduler = model.config("scheduler")
    starts_at_last_timestep = scheduler.get("timestep_spacing") == "trailing"
    predicts_noise = scheduler.get("prediction_type", "epsilon") == "epsilon"
    is_turbo = starts_at_last_timestep and predicts_noise and not scheduler.get("rescale_betas_zero_snr", False)
    return is_turbo or scheduler.get("_class_name") == "LCMScheduler"


def _has_no_guidance_input(model: LocalModel) -> bool:
    return not model.config("transformer").get("guidance_embeds", False)


def _is_distilled(model: LocalModel) -> bool:
    says_so = bool(model.index.get("is_distilled") or model.overrides.distilled)
    return says_so or "Turbo" in model.pipeline_class


def _is_distilled_9b(model: LocalModel) -> bool:
    return _is_distilled(model) and _is_9b(model)


def _is_9b(model: LocalModel) -> bool:
    """Three layers of Qwen3-8B, 4096 wide, where the model of 4B reads three of Qwen3-4B, 2560 wide."""
    width = model.config("transformer").get("joint_attention_dim")
    return isinstance(width, int) and width >= 3 * 4096


def _predicts_velocities(model: LocalModel) -> bool:
    return model.config("scheduler").get("prediction_type") == "v_prediction"


_SD_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionInpaintPipeline", "LatentConsistencyModelPipeline")
_XL_PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline")
#: What the rows of Stable Diffusion 1 and 2 share. By step 25, common schedulers have converged. The pipeline of latent
#: consistency models differs from the usual one only in its defaults.
_SD_ROW: dict[str, Any] = {
    "pipelines": _SD_PIPELINES,
    "runs": "StableDiffusionPipeline",
    "patch": 1,
    "max_pixels": None,
    "size_tolerance": 1.5,
    "is_safe_in_float16": True,
    "reads_with_clip": True,
    "blends_masks": True,
    "batches": True,
    "licence": "CreativeML OpenRAIL-M",
}
_XL_ROW: dict[str, Any] = {
    **_SD_ROW,
    "pipelines": _XL_PIPELINES,
    "runs": "StableDiffusionXLPipeline",
    "licence": "CreativeML Open RAIL++-M",
}
#: Free below a limit of revenue, by the card of Stable Diffusion 3.5: whether that holds is for the operator to know.
_STABILITY: dict[str, Any] = {"licence": "Stability AI Community"}
_FLUX_ROW: dict[str, Any] = {
    "form": Guidance.EMBEDDED,
    "layout": LatentLayout.PATCHES,
    "licence": "FLUX.1 dev non-commercial",
}
_KLEIN_ROW: dict[str, Any] = {
    "pipelines": ("Flux2KleinPipeline",),
    "references": 4,
    "layout": LatentLayout.PATCHES,
    "licence": "Apache-2.0",
}
#: The cards of the larger models forbid what that of 4B permits.
_KLEIN_9B_ROW: dict[str, Any] = {**_KLEIN_ROW, "licence": "FLUX non-commercial"}
_Z_IMAGE_ROW: dict[str, Any] = {
    "pipelines": ("ZImagePipeline",),
    "guided_above": 0.0,
    "licence": "Apache-2.0",
}
_QWEN_ROW: dict[str, Any] = {
    "guidance": 4.0,
    "form": Guidance.TRUE_CFG,
    "layout": LatentLayout.PATCHES,
    "licence": "Apache-2.0",
}
_KREA_ROW: dict[str, Any] = {
    "pipelines": ("Krea2Pipeline",),
    "guided_above": 0.0,
    "layout": LatentLayout.PATCHES,
    "licence": "Krea 2 community",
}
_ERNIE_ROW: dict[str, Any] = {
    "pipelines": ("ErnieImagePipeline",),
    "licence": "Apache-2.0",
}
_SANA_ROW: dict[str, Any] = {
    "patch": 1,
    "least_multiple": 32,
    # It would choose the size itself.
    "arguments": {"use_resolution_binning": False},
    # As its card says; it permits research only.
    "licence": "NSCL v2-custom",
}

#: The first row that names the pipeline and accepts the model counts.
FAMILIES: tuple[Family, ...] = (
    Family(
        key="lcm",
        title="LCM",
        steps=4,
        guidance=8.5,
        form=Guidance.EMBEDDED,
        is_variant=is_consistency_model,
        **_SD_ROW,
    ),
    Family(
        key="sd-turbo", title="SD-Turbo", steps=4, guidance=0.0, is_variant=_has_few_steps, **{**_SD_ROW, **_STABILITY}
    ),
    Family(
        **{**_SD_ROW, "licence": "CreativeML Open RAIL++-M"},
        key="sd2",
        title="Stable Diffusion 2",
        steps=25,
        guidance=7.5,
        is_variant=_predicts_velocities,
    ),
    Family(key="sd1", title="Stable Diffusion 1", steps=25, guidance=7.5, **_SD_ROW),
    Family(
        key="lcm-xl",
        title="LCM, Stable Diffusion XL",
        steps=4,
        guidance=8.5,
        form=Guidance.EMBEDDED,
        is_variant=is_consistency_model,
        **_XL_ROW,
    ),
    Family(
        key="sdxl-turbo",
        title="SDXL-Turbo",
        steps=4,
        guidance=0.0,
        is_variant=_has_few_steps,
        **{**_XL_ROW, **_STABILITY},
    ),
    Family(
        # Merges that keep the scheduler of the base model. Whatever was merged in has a licence of its own.
        key="sdxl-lightning",
        title="SDXL, few steps",
        steps=8,
        guidance=1.5,
        is_variant=_named("turbo|lightning|hyper|lcm|dmd2?"),
        **{**_XL_ROW, "licence": None},
    ),
    Family(key="sdxl", title="Stable Diffusion XL", steps=25, guidance=5.0, **_XL_ROW),
    Family(
        key="sd3.5-turbo",
        title="Stable Diffusion 3.5 Turbo",
        pipelines=("StableDiffusion3Pipeline",),
        steps=4,
        guidance=0.0,
        is_variant=_named("turbo"),
        **_STABILITY,
    ),
    Family(
        key="sd3",
        title="Stable Diffusion 3",
        pipelines=("StableDiffusion3Pipeline",),
        steps=28,
        guidance=4.5,
        **_STABILITY,
    ),
    Family(
        **{**_FLUX_ROW, "form": Guidance.DISTILLED, "licence": "Apache-2.0"},
        key="flux-schnell",
        title="FLUX.1 schnell",
        pipelines=("FluxPipeline",),
        steps=4,
        guidance=0.0,
        is_variant=_has_no_guidance_input,
        # Its text encoder was trained with shorter prompts.
        arguments={"max_sequence_length": 256},
    ),
    Family(
        key="flux-dev",
        title="FLUX.1 dev",
        pipelines=("FluxPipeline",),
        steps=28,
        guidance=3.5,
        **_FLUX_ROW,
    ),
    Family(
        key="flux-kontext",
        title="FLUX.1 Kontext",
        pipelines=("FluxKontextPipeline",),
        steps=28,
        guidance=2.5,
        references=1,
        **_FLUX_ROW,
    ),
    Family(
        key="flux-fill",
        title="FLUX.1 Fill",
        pipelines=("FluxFillPipeline",),
        steps=50,
        guidance=30.0,
        siblings=Siblings(inpaint="FluxFillPipeline"),
        needs=("image", "mask"),
        **_FLUX_ROW,
    ),
    Family(
        key="flux2-klein-9b",
        title="FLUX.2 Klein 9B",
        steps=4,
        guidance=1.0,
        form=Guidance.DISTILLED,
        is_variant=_is_distilled_9b,
        **_KLEIN_9B_ROW,
    ),
    Family(
        key="flux2-klein",
        title="FLUX.2 Klein",
        steps=4,
        guidance=1.0,
        form=Guidance.DISTILLED,
        is_variant=_is_distilled,
        **_KLEIN_ROW,
    ),
    Family(
        key="flux2-klein-9b-base",
        title="FLUX.2 Klein 9B base",
        steps=50,
        guidance=4.0,
        is_variant=_is_9b,
        **_KLEIN_9B_ROW,
    ),
    Family(key="flux2-klein-base", title="FLUX.2 Klein base", steps=50, guidance=4.0, **_KLEIN_ROW),
    Family(
        **{**_FLUX_ROW, "licence": "FLUX.2 dev non-commercial"},
        key="flux2-dev",
        title="FLUX.2 dev",
        pipelines=("Flux2Pipeline",),
        steps=50,
        guidance=4.0,
        references=4,
    ),
    Family(
        key="z-image-turbo",
        title="Z-Image-Turbo",
        steps=9,
        guidance=0.0,
        form=Guidance.DISTILLED,
        is_variant=_named("turbo"),
        **_Z_IMAGE_ROW,
    ),
    Family(key="z-image", title="Z-Image", steps=50, guidance=4.0, **_Z_IMAGE_ROW),
    Family(
        key="qwen-image",
        title="Qwen-Image",
        pipelines=("QwenImagePipeline",),
        steps=50,
        side=1328,
        **_QWEN_ROW,
    ),
    Family(
        key="qwen-image-edit",
        title="Qwen-Image-Edit",
        pipelines=("QwenImageEditPipeline",),
        steps=50,
        references=1,
        needs=("image",),
        **_QWEN_ROW,
    ),
    Family(
        key="qwen-image-edit-plus",
        title="Qwen-Image-Edit Plus",
        pipelines=("QwenImageEditPlusPipeline",),
        steps=40,
        references=3,
        needs=("image",),
        **_QWEN_ROW,
    ),
    Family(
        # By the card of Chroma1-HD, the one of 1024 pixels; the pipeline's own defaults are 35 and 5.
        key="chroma",
        title="Chroma",
        pipelines=("ChromaPipeline",),
        steps=40,
        guidance=3.0,
        # The pipeline for masks of diffusers 0.42 reads a setting that the transformer does not have.
        siblings=Siblings(inpaint=None),
        layout=LatentLayout.PATCHES,
        licence="Apache-2.0",
    ),
    Family(
        key="sana-sprint",
        title="Sana Sprint",
        pipelines=("SanaSprintPipeline",),
        steps=2,
        guidance=4.5,
        form=Guidance.EMBEDDED,
        **_SANA_ROW,
    ),
    Family(key="sana", title="Sana", pipelines=("SanaPipeline",), steps=20, guidance=4.5, **_SANA_ROW),
    Family(
        # By the card and the repository of Lumina-Image 2.0. Its text encoder, Gemma 2, has terms of its own, which
        # permit commercial use.
        key="lumina2",
        title="Lumina 2",
        pipelines=("Lumina2Pipeline",),
        steps=50,
        guidance=4.0,
        # Its authors guide the first quarter of the steps only.
        arguments={"cfg_trunc_ratio": 0.25},
        licence="Apache-2.0",
        side=1024,
    ),
    Family(
        # The licence is that of the card of the model for 1024 pixels. Steps and guidance are those of the pipeline;
        # the card calls it without any.
        key="pixart-sigma",
        title="PixArt-Sigma",
        pipelines=("PixArtSigmaPipeline",),
        steps=20,
        guidance=4.5,
        arguments={"use_resolution_binning": False},
        licence="CreativeML Open RAIL++-M",
    ),
    Family(
        key="krea2-turbo",
        title="Krea 2 Turbo",
        steps=8,
        guidance=0.0,
        form=Guidance.DISTILLED,
        is_variant=_is_distilled,
        **_KREA_ROW,
    ),
    Family(key="krea2", title="Krea 2", steps=28, guidance=4.5, **_KREA_ROW),
    Family(
        key="ernie-image-turbo",
        title="ERNIE-Image Turbo",
        steps=8,
        guidance=1.0,
        form=Guidance.DISTILLED,
        is_variant=_named("turbo"),
        **_ERNIE_ROW,
    ),
    Family(key="ernie-image", title="ERNIE-Image", steps=50, guidance=4.0, **_ERNIE_ROW),
    Family(
        # By configs/config_t2i.yaml and LICENSE of its repository, and the card of T2I-Lite-sft.
        key="kandinsky5",
        title="Kandinsky 5 Image",
        pipelines=("Kandinsky5T2IPipeline",),
        steps=50,
        guidance=3.5,
        fixed_sizes=True,
        layout=LatentLayout.FRAMES,
        licence="MIT",
    ),
)

#: Every other pipeline: steps and guidance come from its signature.
UNLISTED = Family(key="unlisted", title="unlisted", pipelines=(), steps=0, guidance=0.0)
