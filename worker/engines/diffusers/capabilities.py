"""What a model can do, from its index, configurations, family and pipeline. No weights are loaded."""

from collections.abc import Mapping
from inspect import Parameter
from typing import Any

from shared.models.capabilities import Capabilities
from worker.engines.diffusers.decoding.safety_checker import CHECKED, OFF
from worker.engines.diffusers.denoising.schedulers import usable_schedulers
from worker.engines.diffusers.loading.pipeline_classes import has_negative_prompt, parameters_of, pipeline_of
from worker.engines.diffusers.loras.lora_files import find_loras, trigger_words
from worker.engines.diffusers.options import DiffusersOptions
from worker.engines.diffusers.prompts.embedding_files import find_embeddings, takes_embeddings
from worker.models.families import Family, Guidance
from worker.models.local_model import LocalModel
from worker.models.sources import STARTER

EXEMPT = "exempt: the starter model was trained on a closed set of pictograms"
#: How much of an input image may change by default.
STRENGTH = 0.75
#: An inpainting model takes noise, the mask and the masked image: 4 + 1 + 4 channels.
INPAINTING_CHANNELS = 9
MAX_STEPS = 150
#: Of pipelines that say nothing about their size.
USUAL_SIDE = 1024


def capabilities_of(model: LocalModel, options: DiffusersOptions) -> Capabilities:
    """Raises ConfigurationError for a model that the installed diffusers cannot run."""
    pipeline, family = pipeline_of(model)
    overrides, siblings, parameters = model.overrides, family.siblings, parameters_of(pipeline)
    width, height = native_size(model, family)
    guidance = None if family.form is Guidance.NONE else family.guidance
    schedulers = usable_schedulers(model.config("scheduler"), only_lcm=_is_consistency_model(model))
    loras = find_loras(options.lora_dir) if options.lora_dir and takes_loras(pipeline) else {}
    embeddings = tuple(find_embeddings(options.embedding_dir)) if takes_embeddings(pipeline, family) else None
    return Capabilities(
        model=model.name,
        width=width,
        height=height,
        multiple_of=side_multiple(model, family),
        min_side=max(64, side_multiple(model, family)),
        max_side=max(width, height) * 4 if family.max_pixels is None else max(family.max_side, width, height),
        max_pixels=family.max_pixels,
        size_tolerance=family.size_tolerance,
        only_native_size=overrides.only_native_size,
        only_ratio=family.fixed_sizes,
        exact_size=not family.fixed_sizes,
        num_inference_steps=overrides.num_inference_steps or family.steps,
        guidance_scale=guidance if overrides.guidance_scale is None else overrides.guidance_scale,
        max_steps=min(int(model.config("scheduler").get("original_inference_steps") or MAX_STEPS), MAX_STEPS),
        schedulers=schedulers,
        max_input_images=family.references or int(bool(siblings.image or siblings.inpaint)),
        inpainting=siblings.inpaint is not None,
        strength=(overrides.strength or STRENGTH) if siblings.image else None,
        loras=tuple(loras),
        lora_trigger_words=trigger_words(loras),
        embeddings=embeddings,
        safety=_safety(model, options),
        requires=family.needs,
        ignored=_ignored(family, parameters, schedulers, takes_loras(pipeline)) + _ignored_reading(model, family),
    )


def native_size(model: LocalModel, family: Family) -> tuple[int, int]:
    """Width and height. Configurations hold one side in latents, or height and width."""
    size = model.config(denoiser_of(model)).get("sample_size") or USUAL_SIDE // scale_of(model)
    height, width = (size, size) if isinstance(size, int) else size
    scaled = width * scale_of(model), height * scale_of(model)
    native = scaled if family.side is None else (family.side, family.side)
    return model.overrides.width or native[0], model.overrides.height or native[1]


def side_multiple(model: LocalModel, family: Family) -> int:
    return max(family.least_multiple, scale_of(model) * family.patch)


def denoiser_of(model: LocalModel) -> str:
    return "unet" if "unet" in model.index else "transformer"


def scale_of(model: LocalModel) -> int:
    """How many pixels a latent is wide."""
    config = model.config("vae")
    if ratio := config.get("spatial_compression_ratio"):
        return int(ratio)
    if (halvings := config.get("temperal_downsample")) is not None:
        return 1 << len(halvings)
    blocks = config.get("encoder_block_out_channels") or config.get("block_out_channels") or (0,) * 4
    return 1 << (len(blocks) - 1)


def takes_loras(pipeline: Any) -> bool:
    return hasattr(pipeline, "load_lora_weights")


def is_inpainting_model(model: LocalModel) -> bool:
    return model.config("unet").get("in_channels") == INPAINTING_CHANNELS


def _is_consistency_model(model: LocalModel) -> bool:
    return model.config("unet").get("time_cond_proj_dim") is not None


def _safety(model: LocalModel, options: DiffusersOptions) -> str:
    if model.path == STARTER:
        return EXEMPT
    return CHECKED if options.safety_checker else OFF


def _ignored_reading(model: LocalModel, family: Family) -> tuple[str, ...]:
    """Ways to read prompts that need CLIP, and as the only encoder where it is to skip layers."""
    names = [model.parts[part][1] for part in ("text_encoder", "text_encoder_2") if part in model.parts]
    if not family.reads_with_clip or not all(name.startswith("CLIPTextModel") for name in names):
        return ("clip_skip", "prompt_syntax")
    return ("clip_skip",) if "CLIPTextModelWithProjection" in names else ()


def _ignored(family: Family, parameters: Mapping[str, Parameter], schedulers: object, loras: bool) -> tuple[str, ...]:
    ignored = {
        "bfl_model": True,
        "guidance_scale": family.form in (Guidance.DISTILLED, Guidance.NONE),
        "loras": not loras,
        "negative_prompt": not has_negative_prompt(family, parameters),
        "scheduler": not schedulers,
        "strength": not family.siblings.image,
    }
    return tuple(name for name, holds in ignored.items() if holds)
