"""Describe what a model can do: the single source of checks, defaults and GET /api/backends."""

from collections.abc import Mapping
from math import sqrt

from shared.errors import FieldError, InvalidRequest
from shared.jobs.requests import GenerationRequest
from shared.jobs.types import FrozenModel
from shared.models.fitting import fit_size
from shared.models.plain_prompts import plain_prompts
from shared.models.second_pass import resolve_second_pass, second_pass_errors

#: Width and height in pixels.
Size = tuple[int, int]


class RequestLimits(FrozenModel):
    """Limits of the operator, on top of those of the model."""

    max_pixels: int
    max_images: int
    max_pixel_steps: int
    """Maximum width x height x steps x images of a job."""

    def check(self, request: GenerationRequest) -> None:
        """Raises InvalidRequest. For backends with an unknown model; missing sides are not checked."""
        if errors := self.errors(request, request.width or 0, request.height or 0, request.num_inference_steps):
            raise InvalidRequest("The request exceeds this service's limits.", errors)

    def errors(self, request: GenerationRequest, width: int, height: int, steps: int | None) -> list[FieldError]:
        """`steps` is None if the model has no steps or they are unknown."""
        errors = []
        if width * height > self.max_pixels and not request.fit_size:
            errors.append(FieldError("/width", f"width x height may be at most {self.max_pixels} pixels"))
        if (request.output_width or 0) * (request.output_height or 0) > self.max_pixels:
            detail = f"output_width x output_height may be at most {self.max_pixels} pixels"
            errors.append(FieldError("/output_width", detail))
        if request.num_images > self.max_images:
            errors.append(FieldError("/num_images", f"at most {self.max_images} images per job"))
        if width * height * (steps or 1) * request.num_images > self.max_pixel_steps:
            pointer = "/num_inference_steps" if steps else "/width"
            product = "width x height x num_inference_steps x num_images"
            errors.append(FieldError(pointer, f"{product} may be at most {self.max_pixel_steps}"))
        return errors


class Capabilities(FrozenModel):
    """Published by a worker when its model is loaded. Outlives the worker, so that jobs can wait for its return."""

    model: str
    width: int
    """Native size in pixels."""
    height: int
    multiple_of: int
    min_side: int
    max_side: int
    max_pixels: int | None = None
    max_ratio: float | None = None
    """Maximum ratio of the longer to the shorter side."""
    size_tolerance: float | None = 1.5
    """How many times larger or smaller than its native area an image may be and still be as good; None if all sizes
    within the limits are good. Other sizes are rendered at a better one if the request has `fit_size`."""
    only_native_size: bool = False
    """Whether only images of the native size are good: with `fit_size`, others are rendered at it and extended."""
    only_ratio: bool = False
    """Whether width and height only set the aspect ratio, and the model chooses the size."""
    exact_size: bool = True
    """Whether an image of another size than requested is an error."""
    num_inference_steps: int | None
    """Default; None if the model has no steps."""
    min_steps: int = 1
    max_steps: int = 150
    guidance_scale: float | None
    """Default; None if the model has no guidance."""
    min_guidance: float = 0
    max_guidance: float = 50
    schedulers: tuple[str, ...] = ()
    max_input_images: int = 0
    """Maximum number of images in `image`."""
    inpainting: bool = False
    """Whether the model accepts a `mask`."""
    strength: float | None = None
    """Default; None if the model has no strength."""
    loras: tuple[str, ...] = ()
    """Names that requests may use in `loras`."""
    lora_trigger_words: Mapping[str, tuple[str, ...]] = {}
    """Trigger words of LoRAs by their names, if their files contain any."""
    embeddings: tuple[str, ...] | None = None
    """Words in prompts that stand for textual inversion embeddings; None if the model does not read them."""
    safety: str | None = None
    """How unsafe images are handled: `checked`, `off`, or `exempt` with a reason; None if the provider does it."""
    scale: int | None = None
    """For upscalers: by default, images become this many times as wide and high as the input."""
    max_added: int | None = None
    """For models that extend an image on every side to width and height: maximum pixels to add per side."""
    requires: tuple[str, ...] = ()
    """Request fields that this model requires."""
    ignored: tuple[str, ...] = ()
    """Request fields that this model ignores."""
    choices: tuple["Capabilities", ...] = ()
    """All models that a request may name, including this one, if one engine has them all."""

    def for_requested_model(self, request: GenerationRequest) -> "Capabilities":
        """The capabilities of the model that the request names. Raises InvalidRequest for an unknown one."""
        name = request.requested_model
        if not self.choices or name in (None, self.model):
            return self
        for choice in self.choices:
            if choice.model == name:
                return choice
        names = ", ".join(choice.model for choice in self.choices)
        pointer = "/bfl_model" if request.model is None else "/model"
        raise InvalidRequest("The model is unknown.", [FieldError(pointer, f"must be one of {names}")])

    def check(
        self, request: GenerationRequest, limits: RequestLimits | None = None, input_size: Size | None = None
    ) -> None:
        """Raises InvalidRequest, which names every invalid field. `input_size` is that of the upright first image."""
        model = self.for_requested_model(request)
        if request.resize_only:
            if limits is not None:
                limits.check(request)
            return
        max_pixels = limits.max_pixels if limits else None
        fitted, _ = fit_size(model, request, input_size, max_pixels)
        size = model._size(fitted, input_size, max_pixels)
        errors = model._errors(fitted, limits, size, input_size)
        if errors := [*errors, *second_pass_errors(model, request, size, limits)]:
            raise InvalidRequest(f"The {model.model} model cannot make this image.", errors)

    def resolve(
        self, request: GenerationRequest, input_size: Size | None = None, max_pixels: int | None = None
    ) -> tuple[GenerationRequest, tuple[str, ...]]:
        """Fill in the model's defaults; also return a warning for each field that the model does not follow.

        Missing sides follow the aspect ratio of the first input image, rounded down to multiples and limited by the
        model and `max_pixels`.
        """
        model, original = self.for_requested_model(request), request
        if request.resize_only:
            return request.model_copy(update={"width": request.output_width, "height": request.output_height}), ()
        request, size_warnings = fit_size(model, original, input_size, max_pixels)
        width, height = model._size(request, input_size, max_pixels)
        # What is under a mask gets replaced completely.
        strength = model.strength and 1.0 if request.mask else model.strength
        defaults = {
            "num_inference_steps": model.num_inference_steps,
            "guidance_scale": model.guidance_scale,
            "strength": strength if request.image else None,
            "bfl_model": model.model if self.choices and request.model is None else None,
        }
        missing = {name: value for name, value in defaults.items() if getattr(request, name) is None}
        plain, weights = plain_prompts(request, model.model) if "prompt_syntax" in model.ignored else ({}, ())
        second, second_warnings = resolve_second_pass(model, original, (width, height), max_pixels)
        ignored = sorted(name for name in {*model.ignored} - {*plain} if getattr(request, name) is not None)
        if "bfl_model" in ignored and request.bfl_model == model.model:
            ignored.remove("bfl_model")
        unsupported = (f"{name} is ignored: {model.model} does not support it" for name in ignored)
        warnings = [*size_warnings, *unsupported, *weights, *second_warnings]
        if model.only_ratio and (request.width or request.height):
            warnings.append(f"width and height only set the aspect ratio: {model.model} chooses the size")
        # What workers do to images, whatever the model.
        dropped = dict.fromkeys({"mask_fill", "resize_mode"} & {*ignored})
        changes = {"width": width, "height": height, **missing, **plain, **second, **dropped}
        return request.model_copy(update=changes), tuple(warnings)

    def _errors(
        self, request: GenerationRequest, limits: RequestLimits | None, size: Size, input_size: Size | None
    ) -> list[FieldError]:
        width, height = size
        errors = [*self._side_errors("width", request.width), *self._side_errors("height", request.height)]
        errors += self._shape_errors(width, height) + self._added_errors(request, input_size)
        steps = None if self.num_inference_steps is None else request.num_inference_steps or self.num_inference_steps
        errors += limits.errors(request, width, height, steps) if limits else []
        if self.num_inference_steps is not None:
            errors += _range_errors("num_inference_steps", steps, self.min_steps, self.max_steps)
        if self.guidance_scale is not None:
            guidance = request.guidance_scale
            errors += _range_errors("guidance_scale", guidance, self.min_guidance, self.max_guidance)
        errors += [*self._scheduler_errors(request.scheduler), *self._lora_errors(request)]
        return errors + self._image_errors(request)

    def _added_errors(self, request: GenerationRequest, input_size: Size | None) -> list[FieldError]:
        if self.max_added is None or input_size is None or not (request.width and request.height):
            return []
        if input_size == (request.width, request.height):
            return [FieldError("/width", "must be larger than the input image: it already has this size")]
        sides = zip(("width", "height"), (request.width, request.height), input_size, strict=True)
        return [
            error
            for name, side, input_side in sides
            for error in _range_errors(name, side, input_side, input_side + 2 * self.max_added)
        ]

    def _image_errors(self, request: GenerationRequest) -> list[FieldError]:
        errors, maximum = [], self.max_input_images
        if len(request.image) > maximum:
            detail = f"may contain at most {maximum} images" if maximum else "is not supported by this model"
            errors.append(FieldError("/image", detail))
        if request.mask is not None and not self.inpainting:
            errors.append(FieldError("/mask", "is not supported by this model"))
        missing = (name for name in self.requires if not getattr(request, name))
        return errors + [FieldError(f"/{name}", "is required by this model") for name in missing]

    def _size(self, request: GenerationRequest, input_size: Size | None, max_pixels: int | None) -> Size:
        """The requested size, else that of the input image as far as possible, else the native one."""
        width = None if "width" in self.ignored else request.width
        height = None if "height" in self.ignored else request.height
        if input_size is None or (width and height):
            return width or self.width, height or self.height
        if width:
            return width, self._side(input_size[1] * width / input_size[0])
        if height:
            return self._side(input_size[0] * height / input_size[1]), height
        if self.scale is not None:
            input_size = input_size[0] * self.scale, input_size[1] * self.scale
        return self.fitted_size(input_size, max_pixels)

    def fitted_size(self, size: tuple[float, float], max_pixels: int | None) -> Size:
        """The largest allowed size of about this aspect ratio that is not larger than this one, if there is one."""
        limit = min(max_pixels or self.max_side**2, self.max_pixels or self.max_side**2)
        shorter, longer = sorted(size)
        longer = min(longer, int(shorter * (self.max_ratio or longer)))
        largest = min(self.max_side / longer, sqrt(limit / (shorter * longer)))
        scale = min(max(1.0, self.min_side / shorter), largest)
        low = self._side(shorter * scale)
        # The minimum may have made the shorter side longer than its ratio.
        high = self._side(min(longer * scale, low * (self.max_ratio or longer), limit / low))
        return (high, low) if size[0] >= size[1] else (low, high)

    def _side(self, length: float) -> int:
        """Round down to an allowed side, so that the area does not grow."""
        # The small addition compensates for floating-point errors.
        rounded = int(length + 1e-6) // self.multiple_of * self.multiple_of
        return min(max(rounded, self.min_side), self.max_side)

    def _shape_errors(self, width: int, height: int) -> list[FieldError]:
        errors = []
        if self.max_pixels is not None and width * height > self.max_pixels:
            errors.append(FieldError("/width", f"width x height may be at most {self.max_pixels} pixels"))
        if self.max_ratio is not None and max(width, height) > self.max_ratio * min(width, height) + 1e-6:
            errors.append(FieldError("/width", f"one side may be at most {self.max_ratio:.4g} times the other"))
        return errors

    def _lora_errors(self, request: GenerationRequest) -> list[FieldError]:
        if "loras" in self.ignored:
            return []
        names = ", ".join(self.loras)
        detail = f"must be one of {names}" if names else "is unknown: SD_LORA_DIR contains no LoRAs"
        return [
            FieldError(f"/loras/{index}/name", detail)
            for index, lora in enumerate(request.loras or ())
            if lora.name not in self.loras
        ]

    def _scheduler_errors(self, scheduler: str | None) -> list[FieldError]:
        if scheduler is None or "scheduler" in self.ignored or scheduler in self.schedulers:
            return []
        return [FieldError("/scheduler", f"must be one of {', '.join(self.schedulers)}")]

    def _side_errors(self, name: str, side: int | None) -> list[FieldError]:
        if side is None or name in self.ignored:
            return []
        if self.min_side <= side <= self.max_side and side % self.multiple_of == 0:
            return []
        multiple = f"a multiple of {self.multiple_of} " if self.multiple_of > 1 else ""
        return [FieldError(f"/{name}", f"must be {multiple}between {self.min_side} and {self.max_side}")]


def _range_errors(name: str, value: float | None, low: float, high: float) -> list[FieldError]:
    if value is None or low <= value <= high:
        return []
    return [FieldError(f"/{name}", f"must be between {low:g} and {high:g}")]
