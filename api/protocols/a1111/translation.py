"""Translates bodies of the web UI's API into the fields of a request."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from api.field_errors import invalid_field, validate
from api.intake.submissions import Translation
from api.protocols.a1111.checkpoints import Checkpoint, Checkpoints
from api.protocols.a1111.wire import GenerationBody, ImageToImageBody, TextToImageBody
from shared.errors import ModelNotFound
from shared.jobs.prompt_tags import extract_loras, syntax_warnings
from shared.jobs.samplers import choose_scheduler
from shared.jobs.types import MaskMode, PromptSyntax
from shared.models.capabilities import Capabilities, RequestLimits

#: The web UI's own.
SECOND_PASS_STRENGTH, SECOND_PASS_SCALE, INPUT_STRENGTH = 0.7, 2.0, 0.75
#: The scales that second passes may have, and the least strength of a request.
MIN_SCALE, MAX_SCALE, MIN_STRENGTH = 1.0, 4.0, 0.01
#: Names of what enlarges an image between two passes.
_LANCZOS = frozenset({"", "None", "Lanczos"})

B = TypeVar("B", bound=GenerationBody)


class GenerationCall(Generic[B]):
    """Translates the body of one call, and remembers it for the answer."""

    def __init__(
        self, body_type: type[B], checkpoints: Checkpoints, session_model: str | None, limits: RequestLimits
    ) -> None:
        """`session_model` is the one that the caller chose earlier."""
        self.body = body_type.model_construct()
        self._body_type = body_type
        self._checkpoints = checkpoints
        self._session_model = session_model
        self._limits = limits

    def translate(self, body: dict[str, Any]) -> Translation:
        """Raises RequestValidationError, InvalidRequest and ModelNotFound."""
        self.body = parsed = validate(self._body_type, body)
        translation = Translation({"prompt_syntax": PromptSyntax.WEIGHTED, "fit_size": True})
        fields, checkpoint = translation.fields, self._checkpoint(translation)
        known = checkpoint or self._checkpoints.default
        capabilities = known.entry.capabilities if known else None
        fields |= {"model": checkpoint.name} if checkpoint else {}
        self._set_prompts(translation, capabilities)
        self._set_scheduler(translation, capabilities)
        fields |= {name: value for name, value in self._numbers() if value is not None}
        match parsed:
            case TextToImageBody():
                set_second_pass(translation, parsed, capabilities, self._limits)
            case ImageToImageBody():
                set_images(translation, parsed)
        _warn(translation, parsed)
        return translation

    def _checkpoint(self, translation: Translation) -> Checkpoint | None:
        """The model that the body names, or else the session; None for the default one."""
        settings = self.body.override_settings
        if settings and settings.sd_model_checkpoint:
            return self._checkpoints.find(settings.sd_model_checkpoint)
        try:
            return self._checkpoints.find(self._session_model or "")
        except ModelNotFound:
            translation.warnings.append("the chosen checkpoint is gone: the default model is used")
            return None

    def _set_prompts(self, translation: Translation, capabilities: Capabilities | None) -> None:
        body, offered = self.body, capabilities.loras if capabilities else ()
        prompt, loras, warnings = extract_loras(body.prompt, offered)
        # An empty prompt is a prompt there.
        translation.fields.update({"prompt": prompt or " ", **({"loras": loras} if loras else {})})
        if body.negative_prompt:
            translation.fields["negative_prompt"] = body.negative_prompt
        translation.warnings.extend((*warnings, *syntax_warnings(f"{prompt}\n{body.negative_prompt}")))

    def _set_scheduler(self, translation: Translation, capabilities: Capabilities | None) -> None:
        if capabilities is None or "scheduler" in capabilities.ignored:
            return
        sampler = self.body.sampler_name or self.body.sampler_index
        chosen = choose_scheduler(sampler, self.body.scheduler, capabilities.schedulers)
        if chosen.scheduler is not None:
            translation.fields["scheduler"] = chosen.scheduler
        translation.warnings.extend(chosen.warnings)

    def _numbers(self) -> Iterator[tuple[str, Any]]:
        body, settings = self.body, self.body.override_settings
        yield "num_images", (body.batch_size or 1) * (body.n_iter or 1)
        yield "seed", None if body.seed is None or body.seed < 0 else body.seed
        yield "num_inference_steps", body.steps
        yield "guidance_scale", body.cfg_scale
        yield "width", body.width
        yield "height", body.height
        clip_skip = settings.clip_stop_at_last_layers if settings else None
        clip_skip = body.clip_skip if clip_skip is None else clip_skip
        # The last layer is what is used anyway.
        yield "clip_skip", clip_skip if clip_skip not in (None, 0, 1) else None


def set_second_pass(
    translation: Translation, body: TextToImageBody, capabilities: Capabilities | None, limits: RequestLimits
) -> None:
    if not body.enable_hr:
        return
    native = (capabilities.width, capabilities.height) if capabilities else (512, 512)
    width, height = body.width or native[0], body.height or native[1]
    scale = body.hr_scale or SECOND_PASS_SCALE
    if body.hr_resize_x or body.hr_resize_y:
        # One side follows from the other.
        scale = max((body.hr_resize_x or 0) / max(1, width), (body.hr_resize_y or 0) / max(1, height))
    possible = max(MIN_SCALE, min(scale, MAX_SCALE, (limits.max_pixels / max(1, width * height)) ** 0.5))
    if possible != scale:
        translation.warnings.append(f"the image is enlarged {possible:.3g} times, not {scale:.3g} times")
    strength = SECOND_PASS_STRENGTH if body.denoising_strength is None else body.denoising_strength
    second = {"scale": possible, "strength": max(MIN_STRENGTH, strength)}
    if body.hr_second_pass_steps:
        second["num_inference_steps"] = body.hr_second_pass_steps
    translation.fields["second_pass"] = second
    translation.fields.update({"output_width": int(width * possible), "output_height": int(height * possible)})
    translation.ignore("hr_upscaler", body.hr_upscaler, *_LANCZOS, reason="Lanczos is used")
    for name in ("hr_checkpoint_name", "hr_sampler_name", "hr_prompt", "hr_negative_prompt"):
        same = (None, "", "Use same checkpoint", "Use same sampler", body.prompt, body.negative_prompt)
        translation.ignore(name, getattr(body, name), *same, reason="the second pass is like the first")


def set_images(translation: Translation, body: ImageToImageBody) -> None:
    if not body.init_images:
        raise invalid_field("/init_images", "is missing")
    if len(body.init_images) > 1:
        translation.warnings.append("init_images: only the first image is used")
    strength = INPUT_STRENGTH if body.denoising_strength is None else body.denoising_strength
    translation.fields.update({"image": body.init_images[0], "strength": max(MIN_STRENGTH, strength)})
    translation.ignore("resize_mode", body.resize_mode, 0, reason="the image is stretched")
    if not body.mask:
        return
    mode = MaskMode.BLACK if body.inpainting_mask_invert else MaskMode.WHITE
    translation.fields.update({"mask": body.mask, "mask_mode": mode})
    if body.mask_blur is not None:
        translation.fields["mask_blur"] = min(max(0, body.mask_blur), 64)
    translation.ignore("inpainting_fill", body.inpainting_fill, 1, reason="the original is what is changed")
    full = "the whole image is rendered, not only what the mask marks"
    translation.ignore("inpaint_full_res", body.inpaint_full_res, False, reason=full)


def _warn(translation: Translation, body: GenerationBody) -> None:
    translation.ignore("subseed_strength", body.subseed_strength, 0)
    translation.ignore("restore_faces", body.restore_faces, False)
    translation.ignore("tiling", body.tiling, False)
    translation.ignore("styles", body.styles, [])
    translation.ignore("script_name", body.script_name, "", "None")
    translation.ignore("refiner_checkpoint", body.refiner_checkpoint, "", "None")
    translation.ignore("alwayson_scripts", body.alwayson_scripts, {})
    if body.override_settings is not None:
        translation.ignore("sd_vae", body.override_settings.sd_vae, "", "Automatic", "None")
