"""The bodies of the web UI's API, as far as they have an effect here or a warning. Everything else is ignored."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from shared.jobs.types import DescribedModel


class Body(DescribedModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        """Clients send null for what their user left out."""
        return {name: body[name] for name in body if body[name] is not None} if isinstance(body, dict) else body


class OverrideSettings(Body):
    sd_model_checkpoint: str = ""
    """Title, name or hash of a model; empty for the default one."""
    clip_stop_at_last_layers: Annotated[int | None, Field(alias="CLIP_stop_at_last_layers")] = None
    sd_vae: str = ""


class GenerationBody(Body):
    """What txt2img and img2img have in common."""

    prompt: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    """-1: random."""
    sampler_name: str = ""
    sampler_index: str = ""
    scheduler: str = ""
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    batch_size: Annotated[int | None, Field(ge=1)] = None
    n_iter: Annotated[int | None, Field(ge=1)] = None
    denoising_strength: float | None = None
    clip_skip: int | None = None
    override_settings: OverrideSettings | None = None
    send_images: bool | None = None


class TextToImageBody(GenerationBody):
    enable_hr: bool | None = None
    """Whether to enlarge the image and refine it in a second pass."""
    hr_scale: float | None = None
    hr_second_pass_steps: int | None = None
    hr_resize_x: int | None = None
    hr_resize_y: int | None = None


class ImageToImageBody(GenerationBody):
    init_images: Annotated[list[str] | None, Field(max_length=16)] = None
    resize_mode: int | None = None
    """How the image is fitted to the size. 0: stretched. 1: cropped. 2: filled with the colours of its edges."""
    mask: str | None = None
    mask_blur: int | None = None
    inpainting_fill: int | None = None
    """Initial content of the masked area. 0: the colours around it. 1: the original. 2: noise. 3: grey."""
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int | bool | None = None


class ExtrasBody(Body):
    """How to enlarge images: `image` has one as base64, and `imageList` has several as `{"data": ...}`."""

    resize_mode: Annotated[int, Field(ge=0, le=1)] = 0
    """0: by the factor upscaling_resize. 1: to upscaling_resize_w x upscaling_resize_h."""
    upscaling_resize: Annotated[float, Field(gt=0, le=16)] = 2.0
    upscaling_resize_w: Annotated[int, Field(ge=16, le=8192)] = 512
    upscaling_resize_h: Annotated[int, Field(ge=16, le=8192)] = 512
    upscaling_crop: bool = True
    """Whether images of another aspect ratio are cropped to that size; else they cover it completely."""
    upscaler_1: str = "None"
    extras_upscaler_2_visibility: float = 0
    gfpgan_visibility: float = 0
    codeformer_visibility: float = 0


class ImageBody(Body):
    image: str


class OptionsBody(Body):
    """Clients send back the whole object that they have read."""

    sd_model_checkpoint: str | None = None
