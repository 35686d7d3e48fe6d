"""Generation requests: their fields, defaults and validation."""

import re
import secrets
import unicodedata
from functools import partial
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from shared.jobs.types import (
    FINAL_EVENTS,
    Backend,
    FrozenModel,
    MaskFill,
    MaskMode,
    Metadata,
    OutputFormat,
    Priority,
    PromptSyntax,
    ResizeMode,
    ResponseFormat,
    WebhookEvent,
)

MAX_SEED = 2**32 - 1
#: Limits of width and height, whatever the model.
MIN_SIDE, MAX_SIDE = 16, 8192


def _with_failures(events: tuple[WebhookEvent, ...]) -> tuple[WebhookEvent, ...]:
    """Add `failed`: a receiver that waits for an event must not wait in vain."""
    return tuple(event for event in WebhookEvent if event in (*events, WebhookEvent.FAILED))


#: Everything but control characters; tab and line breaks are text. Also part of the JSON schema.
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _without_control_characters(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must not contain control characters, except tabs and line breaks")
    return text


#: Input images of one request, whatever the model takes.
MAX_INPUT_IMAGES = 16
#: A stored input image, by the hash of its bytes; its path follows from the job (see InputStore).
ImageReference = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
#: What clients send in place of a reference.
_SOURCE = {"type": "string", "description": "base64, a data: URL, a public address, or the url of an image"}
ImageReferences = Annotated[
    tuple[ImageReference, ...],
    WithJsonSchema(
        {"anyOf": [_SOURCE, {"type": "array", "items": _SOURCE, "maxItems": MAX_INPUT_IMAGES}, {"type": "null"}]}
    ),
]
OptionalImageReference = Annotated[ImageReference | None, WithJsonSchema({"anyOf": [_SOURCE, {"type": "null"}]})]


Text = Annotated[str, AfterValidator(_without_control_characters), Field(json_schema_extra={"pattern": _TEXT})]
ModelName = Annotated[
    Text,
    Field(min_length=1, max_length=200, examples=["starter", "black-forest-labs/FLUX.2-klein-4B"]),
    AfterValidator(partial(unicodedata.normalize, "NFC")),
]


#: Relative paths without file extension: no part begins with a dot or a space, and none has a backslash, invisible
#: characters or characters that change the writing direction.
_FORBIDDEN = r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069/\\"
_LORA_PART = rf"[^{_FORBIDDEN}. ][^{_FORBIDDEN}]*"
LORA_NAME = rf"{_LORA_PART}(/{_LORA_PART})*"
MAX_LORA_NAME = 200
MAX_LORAS = 5


class Lora(FrozenModel):
    """A LoRA adapter of the model."""

    name: Annotated[
        str,
        Field(pattern=rf"^{LORA_NAME}$", max_length=MAX_LORA_NAME, examples=["watercolour", "people/anna"]),
        AfterValidator(partial(unicodedata.normalize, "NFC")),
    ]
    """Name of an adapter that the worker has; listed in GET /api/backends."""
    scale: Annotated[float, Field(ge=-2, le=2)] = 1.0
    """Strength: 0 has no effect, 1 is the strength it was trained for."""


def _without_duplicates(loras: tuple[Lora, ...]) -> tuple[Lora, ...]:
    if len({lora.name for lora in loras}) < len(loras):
        raise ValueError("may name each LoRA only once")
    return loras


# fail_fast: a report on every wrong entry would take a hundred times the memory of the entries.
Loras = Annotated[tuple[Lora, ...], Field(max_length=MAX_LORAS, fail_fast=True), AfterValidator(_without_duplicates)]
WebhookEvents = Annotated[tuple[WebhookEvent, ...], Field(max_length=8, fail_fast=True), AfterValidator(_with_failures)]


class SecondPass(FrozenModel):
    """Enlarges a finished image and refines it in a second rendering pass, for more detail than one pass gives."""

    scale: Annotated[float, Field(ge=1, le=4)] = 2.0
    """How much larger each side becomes."""
    strength: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How much of the enlarged image may change."""
    num_inference_steps: Annotated[int | None, Field(ge=1, le=150)] = None
    """Default: as many as in the first pass."""
    width: Annotated[int | None, Field(ge=MIN_SIDE, le=MAX_SIDE)] = None
    """Pixels, with `height`; default: the size of the first pass times `scale`."""
    height: Annotated[int | None, Field(ge=MIN_SIDE, le=MAX_SIDE)] = None

    @property
    def size(self) -> tuple[int, int] | None:
        return (self.width, self.height) if self.width and self.height else None


class GenerationRequest(FrozenModel):
    """A request for images. Omitted fields take the model's defaults."""

    prompt: Annotated[Text, Field(min_length=1, max_length=4000, examples=["a red heart on a blue background"])]
    """What the image shows."""
    negative_prompt: Annotated[Text | None, Field(max_length=4000)] = None
    """What the image should not show."""
    model: ModelName | None = None
    """Model that generates the image, from GET /api/models; default: the backend's default model."""
    prompt_syntax: PromptSyntax | None = None
    """`weighted`: both prompts may be long, and weight words as in AUTOMATIC1111's web UI: `(word:1.2)`, `[word]`,
    `BREAK`; default: `plain`."""
    clip_skip: Annotated[int | None, Field(ge=1, le=12)] = None
    """Layer of the text encoder to use, counted from the last, which is 1; only for Stable Diffusion 1 and 2."""
    backend: Backend | None = None
    """Backend that generates the image; default: one that has the model, else the service's default backend."""
    width: Annotated[int | None, Field(ge=MIN_SIDE, le=MAX_SIDE)] = None
    """Pixels; default: the model's native size. Limits and multiples: GET /api/backends."""
    height: Annotated[int | None, Field(ge=MIN_SIDE, le=MAX_SIDE)] = None
    """Pixels; default: the model's native size."""
    fit_size: bool = False
    """Render at the nearest size that suits the model, and scale the image to width x height. Without it, sizes beyond
    the model's limits are errors."""
    output_width: Annotated[int | None, Field(ge=MIN_SIDE, le=MAX_SIDE)] = None
    """Scale the finished image to this width; default: the rendered one. If the aspect ratio differs, the edges are
    extended and nothing is cropped."""
    output_height: Annotated[int | None, Field(ge=MIN_SIDE, le=MAX_SIDE)] = None
    """Scale the finished image to this height; needed with output_width."""
    num_inference_steps: Annotated[int | None, Field(ge=1, le=150)] = None
    """Denoising steps; more take longer."""
    guidance_scale: Annotated[float | None, Field(ge=0, le=100)] = None
    """How closely the image follows the prompt."""
    seed: Annotated[int | None, Field(ge=0, le=MAX_SEED)] = None
    """Seed of the random generator; default: a random one, which the job reports. Image i uses seed + i."""
    image: Annotated[ImageReferences, Field(max_length=MAX_INPUT_IMAGES)] = ()
    """Input image or images: PNG, JPEG or WebP. Responses contain the hash of each."""
    mask: OptionalImageReference = None
    """Areas of `image` to repaint: white is repainted, black stays. Must be as large as `image`."""
    mask_mode: MaskMode = MaskMode.WHITE
    """Which parts of `mask` are repainted."""
    mask_blur: Annotated[int | None, Field(ge=0, le=64)] = None
    """Radius in pixels by which the edge of the mask is softened; default: 0."""
    mask_padding: Annotated[int | None, Field(ge=0, le=1024)] = None
    """Render only the area that `mask` marks and this many pixels around it, at width x height, and put it back into
    the image; default: the whole image is rendered."""
    mask_fill: MaskFill | None = None
    """Initial content of the masked area of `image`; default: `original`. Without effect at a strength of 1."""
    resize_mode: ResizeMode | None = None
    """How an `image` is fitted to a result of another aspect ratio; default: `stretch`."""
    strength: Annotated[float | None, Field(gt=0, le=1)] = None
    """How much of `image` may change: 1 is everything; default: the model's."""
    resize_only: bool = False
    """Only scale `image` to output_width x output_height, with the Lanczos filter and without a model."""
    second_pass: SecondPass | None = None
    """Enlarge each image and refine it in a second pass; not with `image`."""
    num_images: Annotated[int, Field(ge=1, le=64)] = 1
    """How many images to make from the prompt."""
    bfl_model: Annotated[Text | None, Field(max_length=64, examples=["flux-2-pro-preview"])] = None
    """Alias of `model`, for models of Black Forest Labs."""
    scheduler: Annotated[Text | None, Field(max_length=32)] = None
    """Sampler, from the list in GET /api/models/{name}, for models that have one; default: the model's."""
    loras: Loras | None = None
    """LoRA adapters, from the list in GET /api/models/{name}, for local models."""
    output_format: OutputFormat = OutputFormat.PNG
    output_quality: Annotated[int | None, Field(ge=1, le=100)] = None
    """Quality of JPEG and WebP; lower values give smaller files; default: 92."""
    response_format: ResponseFormat = ResponseFormat.URL
    """Whether responses link to each image or contain its bytes as base64."""
    previews: Annotated[int | None, Field(ge=0, le=20)] = None
    """Number of `preview` events, spread over the steps of the job; default: one a second."""
    label: Annotated[Text | None, Field(min_length=1, max_length=128)] = None
    """The caller's name for the job; GET /api/jobs can filter by it."""
    metadata: Metadata = None
    """Returned unchanged in every response; at most 2 KB."""
    priority: Priority = Priority.NORMAL
    deadline_seconds: Annotated[int | None, Field(ge=1, le=86_400)] = None
    """A job that has not started after this many seconds fails with `deadline-passed`."""
    webhook_url: Annotated[str | None, Field(max_length=2048, examples=["https://example.com/hooks/images"])] = None
    """Where the service posts events of the job, signed (docs/webhooks.md)."""
    webhook_events: WebhookEvents = FINAL_EVENTS
    """Events to post; default: the end of the job. Failures are always posted."""
    webhook_inline_images: bool = False
    """Whether the `succeeded` event contains the images as base64, if they are small (SD_WEBHOOK_INLINE_MAX_BYTES).
    It always contains a link to each."""

    @model_validator(mode="after")
    def _require_one_model(self) -> Self:
        if None not in (self.model, self.bfl_model) and self.model != self.bfl_model:
            raise ValueError("bfl_model is an alias of model, so the two must not differ")
        return self

    @model_validator(mode="after")
    def _require_webhook_url(self) -> Self:
        if self.webhook_url is None and (self.webhook_events != FINAL_EVENTS or self.webhook_inline_images):
            raise ValueError("webhook_events and webhook_inline_images need a webhook_url")
        return self

    @field_validator("mask_padding", "mask_fill")
    @classmethod
    def _require_mask(cls, value: object, validated: ValidationInfo) -> object:
        if value is not None and validated.data.get("mask") is None:
            raise ValueError("needs a mask")
        return value

    @field_validator("mask", "resize_mode", "strength")
    @classmethod
    def _require_image(cls, value: object, validated: ValidationInfo) -> object:
        if value is not None and validated.data.get("image") == ():
            raise ValueError("needs an image")
        return value

    @field_validator("resize_mode")
    @classmethod
    def _refuse_with_padding(cls, value: object, validated: ValidationInfo) -> object:
        if value is not None and validated.data.get("mask_padding") is not None:
            raise ValueError("is for whole images: with mask_padding, the image keeps its shape")
        return value

    @field_validator("second_pass")
    @classmethod
    def _refuse_with_image(cls, value: object, validated: ValidationInfo) -> object:
        if value is not None and validated.data.get("image"):
            raise ValueError("is for requests without an image")
        return value

    @model_validator(mode="after")
    def _require_what_to_resize(self) -> Self:
        if self.resize_only and (len(self.image) != 1 or self.output_width is None or self.num_images > 1):
            raise ValueError("resize_only needs one image, output_width and output_height")
        return self

    @model_validator(mode="after")
    def _require_both_output_sides(self) -> Self:
        if (self.output_width is None) != (self.output_height is None):
            raise ValueError("output_width and output_height need each other")
        return self

    @model_validator(mode="after")
    def _limit_last_seed(self) -> Self:
        if self.seed is not None and self.seed + self.num_images - 1 > MAX_SEED:
            raise ValueError(f"seed + num_images - 1 may be at most {MAX_SEED}")
        return self

    @property
    def requested_model(self) -> str | None:
        """The model that the request names, by either field."""
        return self.model if self.model is not None else self.bfl_model

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a resolved request (see Capabilities.resolve)."""
        if self.width is None or self.height is None:
            raise ValueError("the request is not resolved")
        return self.width, self.height

    @property
    def seeds(self) -> range:
        """One for each image of a request with a seed."""
        if self.seed is None:
            raise ValueError("the request has no seed")
        return range(self.seed, self.seed + self.num_images)

    def with_seed(self) -> Self:
        """The same request with a seed, so that the image can be reproduced."""
        if self.seed is not None:
            return self
        return self.model_copy(update={"seed": secrets.randbelow(MAX_SEED + 2 - self.num_images)})

    def to_json(self, *, exclude: set[str]) -> dict[str, Any]:
        """The JSON object, without fields that are unset or empty."""
        fields = self.model_dump(mode="json", exclude_none=True, exclude=exclude)
        return {name: value for name, value in fields.items() if value != []}
