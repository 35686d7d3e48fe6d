"""Translates bodies of the web UI's API into the fields of a request."""

from collections.abc import Iterator
from math import sqrt
from typing import Any, Generic, TypeVar

from api.field_errors import invalid_field, validate
from api.intake.submissions import Translation
from api.protocols.a1111.checkpoints import Checkpoint, Checkpoints
from api.protocols.a1111.wire import GenerationBody, ImageToImageBody, TextToImageBody
from shared.errors import ModelNotFound
from shared.jobs.types import MaskMode, PromptSyntax
from shared.jobs.web_ui.changing_prompts import unchanging
from shared.jobs.web_ui.image_choices import INPUT_STRENGTH, MASK_FILLS, RESIZE_MODES, choose
from shared.jobs.web_ui.prompt_tags import extract_loras
from shared.jobs.web_ui.samplers import choose_scheduler
from shared.models.capabilities import Capabilities, RequestLimits

#: The web UI's defaults of its second pass (hires fix), and the limits of requests.
HIRES_SCALE, HIRES_STRENGTH = 2.0, 0.7
MIN_SCALE, MAX_SCALE, MIN_STRENGTH = 1.0, 4.0, 0.01

_NO_CHOICE, _SAME = "this service does not support it", "the second pass is like the first"
#: Our fields by the ones that set them.
_NAMES = {
    "num_images": "batch_size x n_iter",
    "num_inference_steps": "steps",
    "guidance_scale": "cfg_scale",
    "strength": "denoising_strength",
}
#: Fields without an effect here: the reason, and values that need no warning.
_IGNORED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("subseed_strength", "restore_faces", "tiling", "styles", "script_name"), (_NO_CHOICE,)),
    **dict.fromkeys(("refiner_checkpoint", "alwayson_scripts"), (_NO_CHOICE,)),
    "hr_upscaler": ("Lanczos is used", "Lanczos"),
    **dict.fromkeys(("hr_checkpoint_name", "hr_sampler_name", "hr_prompt", "hr_negative_prompt"), (_SAME,)),
}
#: Fields that only have a meaning together with another one.
_NEEDED = {name: "enable_hr" for name in _IGNORED if name.startswith("hr_")}

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
        translation = Translation({"prompt_syntax": PromptSyntax.WEIGHTED, "fit_size": True}, names=dict(_NAMES))
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
        warn(translation, parsed, body)
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
        text, loras, warnings = extract_loras(body.prompt, offered)
        text, changes = unchanging(text, body.steps)
        negative, other_changes = unchanging(body.negative_prompt, body.steps)
        # An empty prompt is a prompt there.
        fields = {"prompt": text or " ", "negative_prompt": negative, "loras": loras}
        translation.fields.update({name: value for name, value in fields.items() if value})
        translation.warnings.extend(dict.fromkeys((*warnings, *changes, *other_changes)))

    def _set_scheduler(self, translation: Translation, capabilities: Capabilities | None) -> None:
        if capabilities is None or "scheduler" in capabilities.ignored:
            return
        sampler = self.body.sampler_name or self.body.sampler_index
        scheduler, warnings = choose_scheduler(sampler, self.body.scheduler, capabilities.schedulers)
        if scheduler is not None:
            translation.fields["scheduler"] = scheduler
        translation.warnings.extend(warnings)

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
    width, height = max(1, body.width or native[0]), max(1, body.height or native[1])
    # A target size takes precedence over the scale; a side of 0 follows from the other.
    resize = max((body.hr_resize_x or 0) / width, (body.hr_resize_y or 0) / height)
    wanted = resize or body.hr_scale or HIRES_SCALE
    scale = max(MIN_SCALE, min(wanted, MAX_SCALE, sqrt(limits.max_pixels / (width * height))))
    if scale != wanted:
        translation.warnings.append(f"the image is enlarged {scale:.3g} times, not {wanted:.3g} times")
    strength = HIRES_STRENGTH if body.denoising_strength is None else body.denoising_strength
    second: dict[str, Any] = {"scale": scale, "strength": max(MIN_STRENGTH, strength)}
    if body.hr_second_pass_steps:
        second["num_inference_steps"] = body.hr_second_pass_steps
    fields = {"second_pass": second, "output_width": int(width * scale), "output_height": int(height * scale)}
    translation.fields.update(fields)


def set_images(translation: Translation, body: ImageToImageBody) -> None:
    fields = translation.fields
    if not body.init_images:
        raise invalid_field("/init_images", "is missing")
    if len(body.init_images) > 1:
        translation.warnings.append("init_images: only the first image is used")
    strength = INPUT_STRENGTH if body.denoising_strength is None else body.denoising_strength
    fields.update({"image": body.init_images[0], "strength": max(MIN_STRENGTH, strength)})
    # Of what is rendered in an area of the image, the shape stays.
    if not (body.mask and body.inpaint_full_res):
        fields["resize_mode"] = choose("resize_mode", body.resize_mode, RESIZE_MODES, translation.warnings)
    if not body.mask:
        return
    mode = MaskMode.BLACK if body.inpainting_mask_invert else MaskMode.WHITE
    fields.update({"mask": body.mask, "mask_mode": mode})
    fields["mask_fill"] = choose("inpainting_fill", body.inpainting_fill, MASK_FILLS, translation.warnings)
    if body.mask_blur is not None:
        fields["mask_blur"] = min(max(0, body.mask_blur), 64)
    if body.inpaint_full_res:
        fields["mask_padding"] = min(max(0, body.inpaint_full_res_padding), 1024)


def warn(translation: Translation, parsed: GenerationBody, body: dict[str, Any]) -> None:
    """Of everything in the body that has no effect here and would have one there."""
    if parsed.override_settings is not None:
        translation.ignore("sd_vae", parsed.override_settings.sd_vae, "", "Automatic", "None")
    unused = {name for name, needed in _NEEDED.items() if not body.get(needed)}
    same = (parsed.prompt, parsed.negative_prompt, "Use same checkpoint", "Use same sampler", "Use same scheduler")
    for name, (reason, *harmless) in _IGNORED.items():
        if name not in unused:
            translation.ignore(name, body.get(name), "", "None", False, 0, [], {}, *harmless, *same, reason=reason)
