"""What a model can do, from its index, configurations, family and pipeline. No weights are loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from shared.models.capabilities import Capabilities
from worker.engines.diffusers.decoding.safety_checker import CHECKED, OFF
from worker.engines.diffusers.denoising.schedulers import usable_schedulers
from worker.engines.diffusers.loading.pipeline_classes import has_negative_prompt, parameters_of, pipeline_of
from worker.engines.diffusers.loras.lora_files import find_loras, trigger_words
from worker.engines.diffusers.options import DiffusersOptions
from worker.engines.diffusers.prompts.textual_inversions import find_embeddings, takes_embeddings
from worker.models.families import Family, Guidance, is_consistency_model
from worker.models.local_model import LocalModel
from worker.models.sources import STARTER

EXEMPT = "exempt: the starter model was trained on a closed set of pictograms"
#: How much of an input image may change by default.
STRENGTH = 0.75
MAX_STEPS = 150


def capabilities_of(model: LocalModel, options: DiffusersOptions) -> Capabilities:
    """Without LoRAs and embeddings (see AddedFiles).

    Raises ConfigurationError for a model that the installed diffusers cannot run.
    """
    pipeline, family = pipeline_of(model)
    overrides, siblings = model.overrides, family.siblings
    (width, height), multiple = family.native_size(model), family.side_multiple(model)
    guidance = None if family.form is Guidance.NONE else family.guidance
    schedulers = usable_schedulers(model.config("scheduler"), only_lcm=is_consistency_model(model))
    return Capabilities(
        model=model.name,
        width=width,
        height=height,
        multiple_of=multiple,
        min_side=max(64, multiple),
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
        embeddings=() if takes_embeddings(pipeline, family) else None,
        safety=_safety(model, options),
        requires=family.needs,
        ignored=_ignored(pipeline, family, schedulers) + _ignored_reading(model, family),
    )


@dataclass(frozen=True)
class AddedFiles:
    """The LoRAs and embeddings in the operator's folders: they come and go while models stay."""

    loras: tuple[str, ...]
    trigger_words: Mapping[str, tuple[str, ...]]
    embeddings: tuple[str, ...]

    @classmethod
    def found(cls, options: DiffusersOptions) -> Self:
        loras = find_loras(options.lora_dir)
        return cls(tuple(loras), trigger_words(loras), tuple(find_embeddings(options.embedding_dir)))

    def for_model(self, capabilities: Capabilities) -> Capabilities:
        """With those of them that the model takes."""
        update: dict[str, object] = {}
        if "loras" not in capabilities.ignored:
            update = {"loras": self.loras, "lora_trigger_words": self.trigger_words}
        if capabilities.embeddings is not None:
            update["embeddings"] = self.embeddings
        return capabilities.model_copy(update=update)


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


def _ignored(pipeline: Any, family: Family, schedulers: object) -> tuple[str, ...]:
    ignored = {
        "bfl_model": True,
        "guidance_scale": family.form in (Guidance.DISTILLED, Guidance.NONE),
        "loras": not hasattr(pipeline, "load_lora_weights"),
        "negative_prompt": not has_negative_prompt(family, parameters_of(pipeline)),
        "scheduler": not schedulers,
        "strength": not family.siblings.image,
    }
    return tuple(name for name, holds in ignored.items() if holds)
